"""Visual explanation accuracy: is the map the object's shape?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.maps import box_masks, heatmaps, where_known

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class VisualAccuracy:
    """IoU of the thresholded heatmap with the object's mask, and with the box, averaged over the thresholds.

    It asks whether the map *looks like* the object. This is not the question what made the detector see it.

    Args:
        thresholds: of the heatmap, in [0, 1).
        reference: which box is meant: that of the ``"detection"``, or that of its annotated ``"object"``.

    Raises:
        ValueError: there is no threshold, or one is out of range.

    Source: Zhao et al., 2023, ODAM (ICLR), visual explanation accuracy (VEA), which reports it for each threshold.
    """

    name: ClassVar[str] = "visual_accuracy"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "visual_accuracy": Quantity("IoU with the mask", 0, 1, "higher", "visual_accuracy_chance"),
        "visual_accuracy_chance": Quantity("IoU of uniform noise with the mask", 0, 1, None),
        "visual_accuracy_box": Quantity("IoU with the box", 0, 1, "higher", "visual_accuracy_box_chance"),
        "visual_accuracy_box_chance": Quantity("IoU of uniform noise with the box", 0, 1, None),
    }

    thresholds: Sequence[float] = THRESHOLDS
    reference: Reference = "detection"

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 <= threshold < 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds must be numbers in [0, 1), got {self.thresholds!r}")

    def __call__(self, case: Case) -> dict[str, Tensor]:
        masks, with_mask = case.object_masks()
        boxes, _, known = case.reference(self.reference)
        inside = box_masks(boxes, case.size)
        return {
            "visual_accuracy": where_known(thresholded_iou(case.maps, masks, self.thresholds).mean(1), with_mask),
            "visual_accuracy_chance": where_known(self._chance(masks), with_mask),
            "visual_accuracy_box": where_known(thresholded_iou(case.maps, inside, self.thresholds).mean(1), known),
            "visual_accuracy_box_chance": where_known(self._chance(inside), known),
        }

    def _chance(self, masks: Tensor) -> Tensor:
        """(T,): noise passes a threshold in a share 1 - threshold of the pixels, on the mask and off it alike."""
        covered = masks.float().mean((1, 2))[:, None]
        passing = 1 - covered.new_tensor(list(self.thresholds))
        return (passing * covered / (covered + passing * (1 - covered))).mean(1)


def thresholded_iou(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """IoU of the pixels whose heat exceeds each threshold with the mask; 0 where both are empty.

    Args:
        maps: (T, H, W) raw; their heat is the positive part over its maximum.
        masks: (T, H, W) bool.

    Returns:
        (T, n_thresholds) in [0, 1].

    >>> maps = torch.tensor([[[10.0, 4.0, 2.0, -5.0]]])
    >>> thresholded_iou(maps, torch.tensor([[[True, True, False, False]]]), [0.1, 0.3, 0.5])
    tensor([[0.6667, 1.0000, 0.5000]])
    """
    heat = heatmaps(maps)
    area = masks.sum((1, 2))
    columns = []
    for threshold in thresholds:
        hot = heat > threshold
        shared = (hot & masks).sum((1, 2))
        columns.append(shared / (hot.sum((1, 2)) + area - shared).clamp(min=1))
    return torch.stack(columns, 1)
