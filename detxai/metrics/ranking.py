"""Ranks with ties shared, and the two measures that only look at ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.metrics.maps import in_parts


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


def roc_area(maps: Tensor, masks: Tensor, against: Tensor | None = None) -> Tensor:
    """The chance that a pixel of the mask has a higher value than one outside it; ties count half.

    The area under the pixels' ROC curve, as Mann and Whitney's U over the number of pairs.

    Args:
        maps: (T, H, W) raw.
        masks: (T, H, W) bool.
        against: (T, H, W) bool, the pixels to compare with; default: all that the mask leaves.

    Returns:
        (T,) float32 in [0, 1]; NaN where there is nothing on either side.

    >>> roc_area(torch.tensor([[[0.0, 1.0, 1.0, 2.0]]]), torch.tensor([[[False, False, True, True]]]))
    tensor([0.8750])
    """
    return in_parts(_roc_area, maps, masks, ~masks if against is None else against & ~masks)


def _roc_area(maps: Tensor, masks: Tensor, against: Tensor) -> Tensor:
    wanted, others = masks.flatten(1), against.flatten(1)
    n_wanted, n_others = wanted.sum(1), others.sum(1)
    left_out = ~(wanted | others)
    ranks = doubled_ranks(maps.flatten(1).masked_fill(left_out, -torch.inf)) - 2 * left_out.sum(1, keepdim=True)
    twice_u = (ranks * wanted).sum(1) - n_wanted * (n_wanted + 1)
    pairs = n_wanted * n_others
    return torch.where(pairs > 0, twice_u / (2 * pairs).clamp(min=1), torch.nan).float()


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
