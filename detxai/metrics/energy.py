"""Energy-based pointing game: how much of the map lies on the object?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.on_object import on_box_and_mask


@dataclass(frozen=True)
class EnergyPointingGame:
    """The share of the map's positive sum that lies within the box, and within the object's mask.

    A map without a positive value counts as 0. A flat map has the chance level: the share of the image's pixels that
    the box or mask covers. (VPS scales maps to [0, 1] first, and so gives a flat map 0.)

    Args:
        reference: which box is meant: that of the ``"detection"``, or that of its annotated ``"object"``.

    Source: Wang et al., 2020, Score-CAM (CVPR workshops); also called relevance mass accuracy.
    """

    name: ClassVar[str] = "energy"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "energy_box": Quantity("share of the map in the box", 0, 1, "higher", "energy_box_chance"),
        "energy_box_chance": Quantity("the box's share of the image", 0, 1, None),
        "energy_mask": Quantity("share of the map on the mask", 0, 1, "higher", "energy_mask_chance"),
        "energy_mask_chance": Quantity("the mask's share of the image", 0, 1, None),
    }

    reference: Reference = "detection"

    def __call__(self, case: Case) -> dict[str, Tensor]:
        return on_box_and_mask("energy", energy_share, case, self.reference)


def energy_share(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's positive sum that lies on its mask; 0 where nothing is positive.

    Args:
        maps: (T, H, W) raw.
        masks: (T, H, W) bool.

    Returns:
        (T,) in [0, 1].

    >>> maps = torch.tensor([[[3.0, 1.0, -9.0, 0.0]]])
    >>> energy_share(maps, torch.tensor([[[True, False, True, False]]]))
    tensor([0.7500])
    """
    positive = maps.clamp(min=0)
    total = positive.sum((1, 2))
    return (positive * masks).sum((1, 2)) / torch.where(total > 0, total, 1)
