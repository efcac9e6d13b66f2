"""Three maps of the same views: the start, all views joined, and the soft masks alone."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.masking.evidence_views import EvidenceViews
from detxai.engine.masking.shapley import join
from detxai.engine.masking.soft.estimating import Estimate, shared_out, sharpened_by

CANDIDATES = ("start", "joined", "masks")


def candidate_maps(
    views: EvidenceViews, shapes: Tensor, start_draws: float, mask_draws: float, gradient_weight: float
) -> tuple[Tensor, Tensor]:
    """The maps (M, T, h, w), the first M of ``CANDIDATES``, and their standard errors: see ``PixelEvidence``.

    Args:
        views: of T boxes; without soft masks there are the first two maps only.
        shapes: (T, h, w) the start, each summing to 1.
        start_draws, mask_draws: how many draws the start and the soft masks count as.
        gradient_weight: how much the gradients count in the joined map and in that of the masks.
    """
    known = views.known
    total = (known.whole - known.hidden.mean(1)).clamp(min=0)[:, None, None]
    start = Estimate(shapes * total, torch.zeros_like(shapes))
    k, m = (torch.full_like(known.whole, count) for count in (start_draws, mask_draws))
    if views.masks is None:
        return _stacked(start, Estimate(*join(known, [(k, start.values)])))
    masks = Estimate(*shared_out(views.masks, total, start.values))
    joined = Estimate(*join(known, [(k, start.values), (m, masks.values)]))
    if views.gradients is None:
        return _stacked(start, joined, masks)
    fine = Estimate(*shared_out(views.gradients, total, start.values))
    half = Estimate((start.values + fine.values) / 2, fine.standard_error / 2)
    return _stacked(half, *(sharpened_by(one, fine, gradient_weight) for one in (joined, masks)))


def _stacked(*maps: Estimate) -> tuple[Tensor, Tensor]:
    return torch.stack([one.values for one in maps]), torch.stack([one.standard_error for one in maps])
