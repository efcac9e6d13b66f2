"""Compactness: how closely does the map gather around its highest point?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.maps import where_known


@dataclass(frozen=True)
class Compactness:
    """How far the map's positive part lies from the map's highest point, in half diagonals of the box.

    Args:
        reference: which box is meant: that of the ``"detection"``, or that of its annotated ``"object"``.

    Source: Zhao et al., 2023, ODAM (ICLR). Differs where several pixels share the maximum: the mean of the squared
    distances to each of them.
    """

    name: ClassVar[str] = "compactness"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "compactness": Quantity("distance from the highest point, in half diagonals", 0, float("inf"), "lower"),
    }

    reference: Reference = "detection"

    def __call__(self, case: Case) -> dict[str, Tensor]:
        boxes, _, known = case.reference(self.reference)
        return {"compactness": where_known(compactness(case.maps, boxes), known)}


def compactness(maps: Tensor, boxes: Tensor) -> Tensor:
    """``sqrt(sum H d^2 / ((w^2 + h^2) / 4 * sum H))`` with H the positive part, d the distance to its maximum.

    Args:
        maps: (T, H, W) raw.
        boxes: (T, 4) xyxy, pixels; w and h are their sides.

    Returns:
        (T,) from 0; NaN for a map without a positive value, or an empty box.

    >>> maps = torch.tensor([[[4.0, 0.0, 0.0, 0.0, 4.0, 8.0, -1.0]]])  # 4 at a distance of 5, 4 at 1, 8 at 0
    >>> compactness(maps, torch.tensor([[0.0, 0.0, 6.0, 8.0]]))  # half a diagonal is 5
    tensor([0.5099])
    """
    positive = maps.clamp(min=0)
    peak = positive.amax((1, 2), keepdim=True)
    highest = ((positive == peak) & (peak > 0)).float()
    spread = _second_moment(positive, highest)
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = sides.pow(2).sum(1) / 4
    defined = (peak.flatten() > 0) & (scale > 0)
    return torch.where(defined, (spread / torch.where(defined, scale, 1)).sqrt(), torch.nan)


def _second_moment(weights: Tensor, centres: Tensor) -> Tensor:
    """(T,) the mean squared distance between a pixel drawn by ``weights`` and one drawn by ``centres``."""
    total = torch.zeros(len(weights), device=weights.device)
    for axis in (1, 2):  # per axis E(x - y)^2 = (Ex - Ey)^2 + var x + var y: no pairs of pixels needed
        places = torch.arange(weights.shape[axis], device=weights.device, dtype=weights.dtype)
        means = []
        for density in (weights, centres):
            along = density.sum(3 - axis)
            along = along / along.sum(1, keepdim=True).clamp(min=torch.finfo(along.dtype).tiny)
            mean = along @ places
            means.append(mean)
            total = total + (along * (places - mean[:, None]).pow(2)).sum(1)
        total = total + (means[0] - means[1]).pow(2)
    return total
