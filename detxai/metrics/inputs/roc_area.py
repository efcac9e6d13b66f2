"""The area under the ROC curve of a map's pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.rank_correlation import doubled_ranks, in_parts


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
