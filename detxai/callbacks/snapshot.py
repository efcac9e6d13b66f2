"""What one explanation says in numbers, and how it moved since the last epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.geometry import box_iou
from detxai.metrics.energy import energy_share
from detxai.metrics.inputs.maps import box_masks

GRID = 64  # cells a side in which maps of two epochs are compared: finer than any pyramid level in use
SAME = 0.5  # IoU from which a detection of this epoch is the one of the last
MEASURES = (
    "score",
    "energy_box",
    "energy_box_chance",
    "context_reliance",
    "change",
    "evidence_mass",
    "evidence_mass_chance",
)


@dataclass(frozen=True, eq=False)
class BoxSnapshot:
    """One box of one image at one epoch.

    Attributes:
        image: the image's name.
        place: which box of it; for a mistake, its rank.
        detection: the box, of length 1; its score is the detector's now.
        explanation: its map; of the whole image where the method asks about no box. None in a report that is kept for
            the whole training: a map has as many numbers as its photo has pixels.
        measures: ``MEASURES``; NaN where something is not known.
        kind: ``"panel"``, or the kind of a mistake.
    """

    image: str
    place: int
    detection: Detections
    explanation: Explanation | None
    measures: dict[str, float]
    kind: str = "panel"

    @property
    def label(self) -> int:
        return int(self.detection.labels[0])


def expect_whole(explanations: Sequence[Explanation]) -> None:
    """Raise ``KeyboardInterrupt`` where a method took the Ctrl-C to give what it had: the training is meant too."""
    if any(explanation.partial for explanation in explanations):
        raise KeyboardInterrupt


def measures_of(
    explanation: Explanation, detection: Detections, evidence: Tensor | None, before: tuple[Detections, Tensor] | None
) -> dict[str, float]:
    """The numbers of one map.

    ``energy_box`` is the share of the map's positive sum in the box (energy-based pointing game), beside the share
    that a flat map has there; ``context_reliance`` is the rest of it, NaN for a map without a positive value;
    ``change`` is 1 - Pearson's correlation with the map of the last epoch, in [0, 2]; ``evidence_mass`` is the share
    on the known evidence.

    Args:
        explanation: the map.
        detection: the box in question.
        evidence: (H, W) bool, where known.
        before: the box and the ``small`` map of the last epoch.
    """
    maps = torch.from_numpy(explanation.values)[None]
    inside = box_masks(detection.boxes, explanation.values.shape)
    share = float(energy_share(maps, inside))
    numbers = dict.fromkeys(MEASURES, math.nan)
    numbers |= {"score": float(detection.scores[0]), "energy_box": share}
    numbers["energy_box_chance"] = float(inside.float().mean())
    if bool((maps > 0).any()):
        numbers["context_reliance"] = 1 - share
    if before is not None and _same(before[0], detection):
        numbers["change"] = change(before[1], small(explanation.values))
    if evidence is not None and bool(evidence.any()):
        numbers["evidence_mass"] = float(energy_share(maps, evidence[None]))
        numbers["evidence_mass_chance"] = float(evidence.float().mean())
    return numbers


def small(values: npt.NDArray[np.float32]) -> Tensor:
    """A map averaged over at most 64 x 64 cells."""
    height, width = values.shape
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(values)[None], (min(height, GRID), min(width, GRID)))
    return pooled[0]


def change(before: Tensor, now: Tensor) -> float:
    """1 - Pearson's correlation of two maps of one shape: 0 the same up to scale, 1 unrelated, 2 turned over.

    Two flat maps are the same; one flat map is unrelated to any other.

    >>> ramp = torch.tensor([[0.0, 1.0, 2.0]])
    >>> round(change(ramp, 3 * ramp + 1), 6), round(change(ramp, -ramp), 6), change(ramp, torch.ones(1, 3))
    (0.0, 2.0, 1.0)
    """
    centred = [values.double() - values.double().mean() for values in (before, now)]
    norms = [float(values.norm()) for values in centred]
    if min(norms) == 0:
        return 0.0 if max(norms) == 0 else 1.0
    correlation = float((centred[0] * centred[1]).sum()) / (norms[0] * norms[1])
    return 1 - min(max(correlation, -1.0), 1.0)  # rounding reaches beyond


def _same(before: Detections, now: Detections) -> bool:
    if int(before.labels[0]) != int(now.labels[0]):
        return False
    return float(box_iou(before.boxes[0], now.boxes[0])) >= SAME
