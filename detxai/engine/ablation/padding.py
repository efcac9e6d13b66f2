"""Rows that belong to several ablations, as one padded batch."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_rows(ablation: Tensor, n_ablations: int, *columns: Tensor) -> tuple[list[Tensor], Tensor]:
    """R rows as a batch with as many places as the ablation with most rows needs, at least one.

    Args:
        ablation: (R,) int64, which ablation each row belongs to, ascending.
        n_ablations: B.
        columns: (R, ...) each.

    Returns:
        Each column as (B, n, ...), filled up with zeros, and (B, n) bool, which places are filled.

    >>> (numbers,), filled = pad_rows(torch.tensor([0, 0, 2]), 3, torch.tensor([5, 6, 7]))
    >>> numbers.tolist(), filled.tolist()
    ([[5, 6], [0, 0], [7, 0]], [[True, True], [False, False], [True, False]])
    """
    counts = torch.bincount(ablation, minlength=n_ablations)
    place = torch.arange(len(ablation), device=ablation.device) - (counts.cumsum(0) - counts)[ablation]
    n = max(int(counts.max()), 1)
    padded = []
    for column in (*columns, torch.ones_like(ablation, dtype=torch.bool)):
        wide = column.new_zeros(n_ablations, n, *column.shape[1:])
        wide[ablation, place] = column
        padded.append(wide)
    *padded, filled = padded
    return padded, filled
