"""Object discrimination: how much of what lies on objects lies on the wrong ones?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.metrics.inputs.case import Case, Quantity
from detxai.metrics.inputs.maps import box_masks, where_known


@dataclass(frozen=True)
class Leakage:
    """Of the map's positive sum on annotated objects, the share that lies on other objects than the detection's own.

    Objects are their annotated masks, or their boxes where there are no masks. Pixels that two objects share count for
    the detection's own. The value is unknown if the detection is of no annotated object, if there is no other object,
    or if no part of the map lies on an object.

    Source: Zhao et al., 2023, ODAM (ICLR), the object discrimination index (ODI). Differs in that shared pixels count
    once.
    """

    name: ClassVar[str] = "leakage"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "leakage": Quantity("share of the map on other objects", 0, 1, "lower", "leakage_chance"),
        "leakage_chance": Quantity("the other objects' share of all objects' pixels", 0, 1, None),
    }

    def __call__(self, case: Case) -> dict[str, Tensor]:
        if case.objects is None or case.object_of is None or not len(case.objects):
            nothing = torch.full((len(case),), torch.nan, device=case.maps.device)
            return {"leakage": nothing, "leakage_chance": nothing.clone()}
        masks = case.objects.masks
        masks = box_masks(case.objects.boxes, case.size) if masks is None else masks
        own, other = own_and_other(masks, case.object_of)
        known = case.known_object & other.any(2).any(1)
        flat = torch.ones_like(case.maps)
        return {
            "leakage": where_known(leakage(case.maps, own, other), known),
            "leakage_chance": where_known(leakage(flat, own, other), known),
        }


def own_and_other(masks: Tensor, object_of: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of each detection's own object, and those of the others only: both (T, H, W) bool.

    Args:
        masks: (G, H, W) bool, the objects.
        object_of: (T,) which one each detection is of; -1: none, so all are others.
    """
    own = masks[object_of.clamp(min=0)] & (object_of >= 0)[:, None, None]
    return own, masks.any(0) & ~own


def leakage(maps: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Positive sum on ``other`` over that on ``own`` and ``other``; NaN where both are 0.

    Args:
        maps: (T, H, W) raw.
        own, other: (T, H, W) bool, without common pixels.

    Returns:
        (T,) in [0, 1].

    >>> own, other = torch.tensor([[[[True, False, False]]], [[[False, True, False]]]])
    >>> leakage(torch.tensor([[[6.0, 2.0, 100.0]]]), own, other)
    tensor([0.2500])
    """
    positive = maps.clamp(min=0)
    astray = (positive * other).sum((1, 2))
    return astray / (astray + (positive * own).sum((1, 2)))
