"""Four maps of the same views: the start, all views joined, the soft masks alone, and the draws alone."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.masking.evidence_views import EvidenceViews
from detxai.engine.masking.shapley import join
from detxai.engine.masking.soft.estimating import Estimate, resolved_by, shared_out, sharpened_by

CANDIDATES = ("start", "joined", "masks", "draws")
MASKS = CANDIDATES.index("masks")
PREFERENCE = 0.15  # how much more, as a share of the whole image's score, another map must have than the soft masks'
SURE = 0.9  # the whole image's score from which the soft masks are preferred
START_SHARE = 0.03  # of the soft masks' map: it orders the pixels that carry no evidence, which chance would order


def candidate_maps(
    views: EvidenceViews, shapes: Tensor, start_draws: float, mask_draws: float, gradient_weight: float
) -> tuple[Tensor, Tensor]:
    """The maps (M, T, h, w), the first M of ``CANDIDATES``, and their standard errors: see ``PixelEvidence``.

    Args:
        views: of T boxes; without soft masks there are the first two maps only, without draws the first three.
        shapes: (T, h, w) the start, each summing to 1.
        start_draws, mask_draws: how many draws the start and the soft masks count as.
        gradient_weight: how much the gradients count in every map but the start; twice as much in the soft masks',
            where they say only what lies where within a cell.
    """
    known = views.known
    total = (known.whole - known.hidden.mean(1)).clamp(min=0)[:, None, None]
    start = Estimate(shapes * total, torch.zeros_like(shapes))
    k, m = (torch.full_like(known.whole, count) for count in (start_draws, mask_draws))
    if views.masks is None:
        return _stacked(start, Estimate(*join(known, [(k, start.values)])))
    masks = Estimate(*shared_out(views.masks, total, start.values))
    joined = Estimate(*join(known, [(k, start.values), (m, masks.values)]))
    draws = [Estimate(*join(known, [(torch.zeros_like(k), start.values)]))] if bool(known.n_draws.any()) else []
    if views.gradients is None:
        return _stacked(start, joined, _with_start(masks, start), *draws)
    fine = Estimate(*shared_out(views.gradients, total, start.values))
    half = Estimate((start.values + fine.values) / 2, fine.standard_error / 2)
    joined, *draws = (sharpened_by(one, fine, gradient_weight) for one in (joined, *draws))
    resolved = resolved_by(masks, fine, views.cell, 2 * gradient_weight)
    return _stacked(half, joined, _with_start(resolved, start), *draws)


def _with_start(masks: Estimate, start: Estimate) -> Estimate:
    """The soft masks' map with a small share of the start; their sums are equal, and so is that of the result."""
    own = 1 - START_SHARE
    return Estimate(own * masks.values + START_SHARE * start.values, own * masks.standard_error)


def _stacked(*maps: Estimate) -> tuple[Tensor, Tensor]:
    return torch.stack([one.values for one in maps]), torch.stack([one.standard_error for one in maps])


def best_maps(tried: Tensor, whole: Tensor) -> Tensor:
    """(T,) int64: which of the M maps is kept, by what their best pixels gave.

    The best one; but for a box that the detector is sure of, the soft masks' map, where no other is better by more than
    ``PREFERENCE``. Where the cause is known, that map is right most often, and a small cause changes the curves by less
    than that. The curves of a box with a low score differ by as much by chance.

    Args:
        tried: (M, T) of ``compare_best_pixels``.
        whole: (T,) the scores of the whole image.
    """
    advantage = torch.zeros_like(tried)
    if len(tried) > MASKS:
        advantage[MASKS] = torch.where(whole >= SURE, PREFERENCE * whole, 0)
    return (tried + advantage).argmax(0)
