"""Attack agreement: does what an attacker changes coincide with what the map marks?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.adapters.network import NetworkDetector
from detxai.detections import Detections
from detxai.engine.attacks.attack import attack
from detxai.engine.attacks.goals import make_goal
from detxai.engine.attacks.pgd import NORMS, PGD, Norm
from detxai.engine.rank_correlation import rank_correlation
from detxai.methods.checks import check_choice, check_count
from detxai.metrics.energy import energy_share
from detxai.metrics.inputs.case import Case, Quantity

TOP = 0.1  # share of the image's pixels that a map marks


@dataclass(frozen=True)
class AttackAgreement:
    """How well the map agrees with an attack that makes the box vanish (projected gradient descent).

    The attack within L2 may change every pixel, and puts its energy (squared change) where the score falls most
    quickly. Then two more attacks may change the top tenth of the map's pixels alone, or as many pixels drawn at
    random. NaN for a detector without a network, or without gradients.

    A map that is right need not agree: what decides and what is most quickly disturbed are different questions.

    Args:
        steps: of each attack.
        norm: of the two confined attacks: ``"linf"`` or ``"l2"``.
        epsilon: of the two confined attacks; None: that of ``detxai.engine.attacks.pgd.PGD``.
        seed: of the attacks' starts and of the random pixels.

    Raises:
        ValueError: a setting is wrong.

    Source: detxai's own; the attack is that of Madry et al., 2018 (ICLR).
    """

    name: ClassVar[str] = "attack_agreement"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "attack_correlation": Quantity("rank correlation of the map with the attack's energy", -1, 1, None, 0.0),
        "attack_mass": Quantity("share of the attack's energy in the map's top tenth", 0, 1, None, 0.1),
        "attack_drop": Quantity(
            "share of the score lost by attacking the map's top tenth", -float("inf"), 1, "higher", "attack_drop_chance"
        ),
        "attack_drop_chance": Quantity("the same at as many random pixels", -float("inf"), 1, None),
    }

    steps: int = 10
    norm: Norm = "linf"
    epsilon: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1)
        check_choice("norm", self.norm, NORMS)
        PGD(self.norm, self.epsilon, self.steps, seed=self.seed)

    def __call__(self, case: Case) -> dict[str, Tensor]:
        found = {name: torch.full((len(case),), torch.nan, device=case.maps.device) for name in self.quantities}
        if not isinstance(case.detector, NetworkDetector):
            return found
        for place, detection in enumerate(case.detections):
            values = self._agreement(case, case.detector, detection.to("cpu"), case.maps[place].cpu())
            for name, value in values.items():
                found[name][place] = value
        return found

    def _agreement(
        self, case: Case, detector: NetworkDetector, detection: Detections, map_: Tensor
    ) -> dict[str, float]:
        goal = make_goal("vanish", detector, case.image, detection)
        anywhere = PGD("l2", None, self.steps, seed=self.seed, progress=False)
        energy = torch.from_numpy(attack(detector, case.image, goal, anywhere)[0].energy)
        marked = top_pixels(map_[None], TOP)
        dice = torch.Generator().manual_seed(self.seed)
        random = top_pixels(torch.rand(map_.shape, generator=dice)[None], TOP)
        confined = PGD(self.norm, self.epsilon, self.steps, seed=self.seed, progress=False)
        explained, chance = attack(detector, case.image, goal, confined, torch.cat([marked, random]))
        return {
            "attack_correlation": float(rank_correlation(map_[None], energy[None])),
            "attack_mass": float(energy_share(energy[None], marked)),
            "attack_drop": explained.drop,
            "attack_drop_chance": chance.drop,
        }


def top_pixels(maps: Tensor, share: float) -> Tensor:
    """(T, H, W) bool: the highest ``share`` of each map's pixels, at least one; of equal ones the first.

    >>> top_pixels(torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), 0.5).int()
    tensor([[[1, 0],
             [1, 0]]], dtype=torch.int32)
    """
    flat = maps.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(share * flat.shape[1]))]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).view_as(maps)
