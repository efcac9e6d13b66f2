"""One box, its map and attacks on it, side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.adapters.network import NetworkDetector, require_network
from detxai.detections import Detections
from detxai.engine.attacks.attack import Attack, Pixels, attack, strongest_pixels
from detxai.engine.attacks.goals import AttackGoal
from detxai.engine.attacks.pgd import PGD, checked_masks
from detxai.engine.rank_correlation import rank_correlation
from detxai.explain import Method
from detxai.explanation import Explanation
from detxai.geometry import box_gaussians
from detxai.images import Image, load_image, to_uint8
from detxai.methods.checks import check_fraction
from detxai.metrics.attack_agreement import TOP, top_pixels
from detxai.metrics.energy import energy_share

RANDOM_CELLS = 16  # of the random map's grid along each side: as smooth as the maps of the methods


@dataclass(frozen=True, eq=False)
class RegionAttack:
    """The same attack confined to some pixels.

    Attributes:
        region: what they are.
        share: of the image's pixels.
        attack: what it did.
    """

    region: str
    share: float
    attack: Attack


@dataclass(frozen=True, eq=False)
class AttackComparison:
    """A box's map beside attacks on the box.

    Attributes:
        explanation: of the box in the image.
        attacked_explanation: of the same box in the image that the free attack made; the box may be gone there.
        probe: an attack within L2 at any pixel, whose energy is compared with the map. (One within L-infinity changes
            nearly every pixel by as much as it may, and says little about where.)
        regions: the attack asked for: ``"anywhere"``; in the ``"explained"`` tenth of the pixels; ``"elsewhere"``, in
            the other nine tenths; in the tenth nearest to the ``"box centre"``; in a ``"random"`` tenth; and in the
            ``"mask"`` and the ``"budget"`` that were given.
        numbers: see ``compare_attack``.
    """

    explanation: Explanation
    attacked_explanation: Explanation
    probe: Attack
    regions: list[RegionAttack]
    numbers: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """All numbers, as JSON can hold them."""
        detection = self.explanation.detection
        return {
            "box": None if detection is None else detection.boxes[0].tolist(),
            "class": None if detection is None else detection.name(0),
            "goal": self.regions[0].attack.goal.name,
            "score": self.regions[0].attack.score_before,
            "method": self.explanation.method,
            **{name: round(value, 5) for name, value in self.numbers.items()},
            "regions": [
                {
                    "region": each.region,
                    "share": round(each.share, 5),
                    "score_after": round(each.attack.score_after, 5),
                    "drop": round(each.attack.drop, 5),
                    "loss_after": round(each.attack.loss_after, 5),
                    "is_reached": each.attack.is_reached,
                }
                for each in self.regions
            ],
        }


def compare_attack(
    detector: Detector,
    image: Image,
    detection: Detections,
    goal: AttackGoal,
    method: Method,
    settings: PGD | None = None,
    *,
    mask: Tensor | None = None,
    pixel_budget: float | None = None,
    score_threshold: float = 0.25,
) -> AttackComparison:
    """Explain a box, attack it at several sets of pixels, and explain it again in the attacked image.

    The numbers, each with its level for a map that knows nothing (``random``: 0 or a tenth) and for a hill over the
    box (``box_*``), which knows where the object is and nothing else:

    - ``correlation``: rank correlation of the map with the probe's energy; ``box_correlation``.
    - ``mass``: share of the probe's energy in the map's top tenth of pixels; ``box_mass``; 0.1 by chance.
    - ``map_correlation``: rank correlation of the box's map before and after the attack anywhere.
    - ``marks_attack_before``, ``marks_attack_after``: share of the map (its positive part) on the tenth of the pixels
      with most energy of that attack; 0.1 by chance. Whether the second is larger is whether the map tells.

    Args:
        detector: a network with gradients.
        image: one image.
        detection: one box of it.
        goal: of the attacks, from ``make_goal``; the probe makes the box vanish, whatever the goal.
        method: of the maps.
        settings: of the attacks; default: ``PGD()``.
        mask: (H, W) bool: attack also within these pixels.
        pixel_budget: in (0, 1]: attack also at this share of the pixels, those of most energy of the probe.
        score_threshold: of the detections that say whether the goal is reached.

    Raises:
        ValueError: an argument is wrong.
        TypeError: the detector is a black box.
    """
    network, settings = require_network(detector), settings or PGD()
    pixels = to_uint8(load_image(image))
    if pixel_budget is not None:
        check_fraction("pixel_budget", pixel_budget, "(0, 1]")
    if mask is not None:
        checked_masks(mask[None], (pixels.shape[0], pixels.shape[1]))
    (explanation,) = _explained(network, pixels, detection, method)
    map_ = torch.from_numpy(explanation.values)[None]
    gentle = PGD("l2", None, settings.steps, settings.random_start, settings.seed, settings.progress)
    vanish = replace(goal, name="vanish", wanted=None)
    (probe,) = attack(network, pixels, vanish, gentle, score_threshold=score_threshold)
    box_map = box_gaussians((pixels.shape[0], pixels.shape[1]), detection.boxes[:1].cpu())
    regions = _regions(map_, box_map, probe, mask, pixel_budget, settings.seed)
    attacks = attack(
        network, pixels, goal, settings, torch.stack(list(regions.values())), score_threshold=score_threshold
    )
    made = [
        RegionAttack(name, float(region.float().mean()), found)
        for (name, region), found in zip(regions.items(), attacks, strict=True)
    ]
    (after,) = _explained(network, attacks[0].attacked, detection, method)
    numbers = _numbers(map_, box_map, torch.from_numpy(after.values)[None], probe, attacks[0])
    return AttackComparison(explanation, after, probe, made, numbers)


def _explained(detector: NetworkDetector, image: Pixels, detection: Detections, method: Method) -> list[Explanation]:
    if not method.asks_about_boxes:
        return list(method(detector, image))
    return list(method(detector, image, detection.to(detector.device)))


def _regions(
    map_: Tensor, box_map: Tensor, probe: Attack, mask: Tensor | None, pixel_budget: float | None, seed: int
) -> dict[str, Tensor]:
    """Name -> (H, W) bool."""
    cells = torch.rand(1, 1, RANDOM_CELLS, RANDOM_CELLS, generator=torch.Generator().manual_seed(seed))
    random = torch.nn.functional.interpolate(cells, map_.shape[1:], mode="bilinear", align_corners=False)[0]
    explained = top_pixels(map_, TOP)[0]
    regions = {
        "anywhere": torch.ones_like(explained),
        "explained": explained,
        "elsewhere": ~explained,
        "box centre": top_pixels(box_map, TOP)[0],
        "random": top_pixels(random, TOP)[0],
    }
    if mask is not None:
        regions["mask"] = mask.cpu()
    if pixel_budget is not None:
        attacked = torch.from_numpy(probe.attacked).permute(2, 0, 1)[None] / 255
        regions["budget"] = strongest_pixels(probe.image, attacked, torch.ones_like(explained)[None], pixel_budget)[0]
    return regions


def _numbers(map_: Tensor, box_map: Tensor, after: Tensor, probe: Attack, free: Attack) -> dict[str, float]:
    energy, changed = torch.from_numpy(probe.energy)[None], top_pixels(torch.from_numpy(free.energy)[None], TOP)
    return {
        "correlation": float(rank_correlation(map_, energy)),
        "box_correlation": float(rank_correlation(box_map, energy)),
        "mass": float(energy_share(energy, top_pixels(map_, TOP))),
        "box_mass": float(energy_share(energy, top_pixels(box_map, TOP))),
        "map_correlation": float(rank_correlation(map_, after)),
        "marks_attack_before": float(energy_share(map_, changed)),
        "marks_attack_after": float(energy_share(after, changed)),
    }


def mean_numbers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over several boxes, of what ``AttackComparison.as_json`` gave for each."""
    if not rows:
        return {}
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    means: dict[str, Any] = {"n_boxes": len(rows)}
    means |= {name: round(float(np.mean([row[name] for row in rows])), 4) for name in names}
    regions = [region["region"] for region in rows[0]["regions"]]
    of_region = {name: [r for row in rows for r in row["regions"] if r["region"] == name] for name in regions}
    means["regions"] = [
        {
            "region": name,
            **{key: round(float(np.mean([r[key] for r in found])), 4) for key in ("share", "drop", "score_after")},
            "n_reached": sum(r["is_reached"] for r in found),
        }
        for name, found in of_region.items()
    ]
    return means
