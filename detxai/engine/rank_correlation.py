"""Ranks of a map's pixels with ties shared, and how well two maps agree in them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PIXELS_AT_ONCE = 2**24  # sorting takes some 40 bytes for each


def in_parts(measure: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """``measure`` of paired maps (T, H, W), a part of them at a time where they are large; its answers joined."""
    rows = max(1, PIXELS_AT_ONCE // max(1, maps[0].shape[1:].numel()))
    return torch.cat([measure(*part) for part in zip(*(map_.split(rows) for map_ in maps))])


def doubled_ranks(values: Tensor) -> Tensor:
    """Twice the rank of each value in its row, from 1, equal values sharing the mean of their ranks.

    Whole numbers, so that sums of them are exact however large the map.

    Args:
        values: (T, n).

    Returns:
        (T, n) int64.

    >>> doubled_ranks(torch.tensor([[5.0, 7.0, 5.0, 9.0]]))
    tensor([[3, 6, 3, 8]])
    """
    ordered = values.sort(-1).values.contiguous()
    values = values.contiguous()
    return torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True) + 1


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of paired maps, ties shared.

    A flat map is in no order, so it has 0 with any other, and 1 with another flat map.

    Args:
        first, second: (T, H, W).

    Returns:
        (T,) float32 in [-1, 1].

    >>> rank_correlation(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[10.0, 30.0, 20.0]]]))
    tensor([0.5000])
    """
    return in_parts(_rank_correlation, first, second)


def _rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    wide = torch.float32 if first.device.type == "mps" else torch.float64  # MPS has no float64
    ranks = [doubled_ranks(maps.flatten(1)).to(wide) / maps.shape[1:].numel() for maps in (first, second)]
    centred = [r - r.mean(1, keepdim=True) for r in ranks]
    norms = [c.norm(dim=1) for c in centred]
    flat = [(maps == maps[:, :1, :1]).all(2).all(1) for maps in (first, second)]
    correlation = (centred[0] * centred[1]).sum(1) / (norms[0] * norms[1])
    correlation = torch.where(flat[0] | flat[1], (flat[0] & flat[1]).to(wide), correlation)
    return correlation.clamp(-1, 1).float()
