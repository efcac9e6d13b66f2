"""Pointing game: does the highest point of the map lie on the object?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.on_object import on_box_and_mask


@dataclass(frozen=True)
class PointingGame:
    """Whether the map's highest point lies within the box, and within the object's mask.

    Only evidence for the box counts: the positive part of the map. If several pixels share the maximum, the value is
    the share of them that lies within. A map without a positive value, or one that is the same everywhere, counts as a
    miss.

    Args:
        reference: which box is meant: that of the ``"detection"``, or that of its annotated ``"object"``.

    Source: Zhang et al., 2016, Excitation Backprop (ECCV). Differs in having no tolerance of 15 pixels, and in
    what it does with plateaus, which others drop (ODAM) or count as hits (VPS).
    """

    name: ClassVar[str] = "pointing_game"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "pointing_box": Quantity("the highest point lies in the box", 0, 1, "higher", "pointing_box_chance"),
        "pointing_box_chance": Quantity("the box's share of the image", 0, 1, None),
        "pointing_mask": Quantity("the highest point lies on the mask", 0, 1, "higher", "pointing_mask_chance"),
        "pointing_mask_chance": Quantity("the mask's share of the image", 0, 1, None),
    }

    reference: Reference = "detection"

    def __call__(self, case: Case) -> dict[str, Tensor]:
        return on_box_and_mask("pointing", pointing_hits, case, self.reference)


def pointing_hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's highest pixels that lie on its mask; 0 for a flat map, and for one without a positive value.

    Args:
        maps: (T, H, W) raw.
        masks: (T, H, W) bool.

    Returns:
        (T,) in [0, 1].

    >>> maps = torch.tensor([[[0.0, 3.0, 3.0, 1.0]]])
    >>> pointing_hits(maps, torch.tensor([[[True, True, False, False]]]))
    tensor([0.5000])
    """
    peak = maps.amax((1, 2), keepdim=True)
    points = (peak > 0) & (peak > maps.amin((1, 2), keepdim=True))
    highest = (maps == peak) & points
    return (highest & masks).sum((1, 2)) / highest.sum((1, 2)).clamp(min=1)
