"""One attack on one box, as anybody can check it: images of whole numbers, scored by the model's own pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.network import NetworkDetector
from detxai.detections import Detections
from detxai.engine.attacks.goals import AttackGoal
from detxai.engine.attacks.pgd import PGD, checked_masks, rounded_within
from detxai.images import Image, load_image, to_uint8

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack did.

    Attributes:
        goal: what it was for.
        image: uint8 (H, W, 3), the original.
        attacked: uint8 (H, W, 3), in the ball around it.
        score_before, score_after: of the attacked box, ``max IoU * p(label)``, by the model's own preparation.
        loss_before, loss_after: the goal's.
        detections: what the model finds in the attacked image.
        is_reached: whether they are what the goal wants.
    """

    goal: AttackGoal
    image: Pixels
    attacked: Pixels
    score_before: float
    score_after: float
    loss_before: float
    loss_after: float
    detections: Detections
    is_reached: bool

    @property
    def energy(self) -> npt.NDArray[np.float32]:
        """(H, W) the squared change of each pixel, summed over its colours; values in [0, 1] squared."""
        change = (self.attacked.astype(np.float32) - self.image) / 255
        return np.asarray(np.square(change).sum(2), dtype=np.float32)

    @property
    def drop(self) -> float:
        """The share of the box's score that is gone, at most 1; below 0 where the score rose."""
        return 1 - self.score_after / self.score_before if self.score_before > 0 else 0.0


def attack(
    detector: NetworkDetector,
    image: Image,
    goal: AttackGoal,
    settings: PGD | None = None,
    masks: Tensor | Sequence[Tensor] | None = None,
    *,
    pixel_budget: float | None = None,
    score_threshold: float = 0.25,
) -> list[Attack]:
    """Attack one box of an image, once for each mask.

    Args:
        detector: what is attacked.
        image: one image; it is taken as whole numbers.
        goal: see ``make_goal``.
        settings: of the descent; default: ``PGD()``.
        masks: (M, H, W) bool, the pixels that each attack may change; None: one attack, at any pixel.
        pixel_budget: in (0, 1]: of the pixels that a mask allows, at most this share of the image's pixels is changed:
            those in which an unconfined attack within L2 puts most energy; None: all.
        score_threshold: of the detections that ``is_reached`` looks at.

    Raises:
        ValueError: an argument is wrong; see ``PGD``.
    """
    settings = PGD() if settings is None else settings
    if pixel_budget is not None and not 0 < pixel_budget <= 1:
        raise ValueError(f"pixel_budget must lie in (0, 1], got {pixel_budget!r}")
    pixels = to_uint8(load_image(image))
    size = (pixels.shape[0], pixels.shape[1])
    allowed = checked_masks(torch.stack(list(masks)) if isinstance(masks, Sequence) else masks, size)
    with detector.borrowed():
        if pixel_budget is not None:
            first = PGD("l2", None, settings.steps, settings.random_start, settings.seed, settings.progress)
            allowed = strongest_pixels(pixels, first(detector, pixels, goal, allowed), allowed, pixel_budget)
        found = settings(detector, pixels, goal, allowed)
        whole = torch.from_numpy(pixels).permute(2, 0, 1)
        versions = rounded_within(whole, found, settings.norm, settings.radius(size))
        before = _scores(detector, goal, pixels)
        return [
            _made(detector, goal, pixels, version.permute(1, 2, 0).contiguous().numpy(), before, score_threshold)
            for version in versions
        ]


def strongest_pixels(image: Pixels, attacked: Tensor, allowed: Tensor, share: float) -> Tensor:
    """(M, H, W) bool: of the allowed pixels those that an attack (M, 3, H, W) changed most, this share of the image.

    At least one pixel; fewer where a mask allows fewer.
    """
    clean = torch.from_numpy(image).permute(2, 0, 1).to(attacked) / 255
    energy = (attacked - clean).square().sum(1).flatten(1).cpu().masked_fill(~allowed.cpu().flatten(1), -1)
    n = max(1, round(share * energy.shape[1]))
    chosen = torch.zeros_like(energy, dtype=torch.bool).scatter_(1, energy.topk(n, 1).indices, True)
    return chosen.view_as(allowed) & allowed.cpu()


def _scores(detector: NetworkDetector, goal: AttackGoal, image: Pixels) -> tuple[float, float]:
    with torch.no_grad():
        candidates = detector.candidates(image)
        return float(goal.own_score(candidates)[0]), float(goal.loss(candidates)[0])


def _made(
    detector: NetworkDetector,
    goal: AttackGoal,
    image: Pixels,
    attacked: Pixels,
    before: tuple[float, float],
    score_threshold: float,
) -> Attack:
    after = _scores(detector, goal, attacked)
    detections = detector.detect(attacked, score_threshold).to("cpu")
    return Attack(
        goal, image, attacked, before[0], after[0], before[1], after[1], detections, goal.is_reached(detections)
    )
