"""Maps smoothed by a Gaussian, whatever their size and its width."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothed(maps: Tensor, deviations: tuple[float, float]) -> Tensor:
    """Each pixel's mean over its neighbours, weighted by a Gaussian: (..., h, w), the same shape.

    At the border the mean is over the neighbours that are there. Two products of matrices, so that a Gaussian as wide
    as the map costs no more than a narrow one.

    Args:
        maps: (..., h, w).
        deviations: standard deviations in pixels, down and across, both above 0.
    """
    down, across = (_weights(maps, axis, wide) for axis, wide in zip((-2, -1), deviations, strict=True))
    return down @ maps @ across.T


def _weights(maps: Tensor, axis: int, deviation: float) -> Tensor:
    """(n, n), a row for each pixel along the axis; each row sums to 1."""
    pixels = torch.arange(maps.shape[axis], device=maps.device, dtype=maps.dtype)
    weights = torch.exp(-(((pixels[:, None] - pixels) / deviation) ** 2) / 2)
    return weights / weights.sum(1, keepdim=True)
