"""Soft masks traced back: how the scores change with every single pixel of a mask, from a network's gradients."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.engine.batching import ACTIVATIONS, batch_size_for, in_batches
from detxai.engine.gradients import gradients_of_each
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.estimating import Estimate
from detxai.engine.masking.soft.masks import RiseMasks
from detxai.engine.masking.soft.smoothing import smoothed
from detxai.targets import score_targets

log = logging.getLogger(__name__)

SMOOTHING = 1.5  # pixels of the input, standard deviation: gradients of neighbouring pixels alternate in size
WITH_GRAPH = 4 * ACTIVATIONS  # bytes per byte of input: a backward pass needs the layers' outputs kept


@dataclass(frozen=True, eq=False)
class Traced:
    """What n views under soft masks gave for T boxes.

    Attributes:
        scores: (T, n) float32, as ``ViewScorer.under_masks`` gives them.
        slopes: (T, h, w) over the canvas, the mean over views of how much the score changes with each pixel of the
            mask, in either direction; and its standard error.
    """

    scores: Tensor
    slopes: Estimate


def trace_masks(scorer: ViewScorer, masks: RiseMasks, n_masks: int) -> Traced | None:
    """The first ``n_masks`` masks, scored and traced back to their pixels; None where there are no gradients.

    A view is ``M image + (1 - M) filling``, so by the chain rule the score f changes with pixel x of the mask by
    ``df/dM(x) = sum over channels of (image(x) - filling(x)) df/dview(x)``. The slopes are the mean of ``|df/dM(x)|``
    over views, smoothed. D-RISE estimates the mean of ``df/dM`` from scores alone, a cell of the mask at a time; one
    backward pass gives it for every pixel, with the sign and the size of single pixels being noise.

    All is computed in the model's own precision. There are no gradients for a black box, for a detector that takes the
    image part by part, for a model made in inference mode, and for targets that have none.

    Args:
        scorer: of T targets; the last of its canvas's fillings is used.
        masks: of the canvas's size.
        n_masks: at least 2.
    """
    canvas, detector = scorer.canvas, scorer.detector
    if detector.network is None or canvas.parts is not None:
        return None
    image = canvas.clean.tensor
    (top, left), (height, width) = canvas.geometry.offset, canvas.size
    inside = (..., slice(top, top + height), slice(left, left + width))
    difference = (image - canvas.filling[-1:])[inside]

    def run(numbers: Tensor) -> tuple[Tensor, Tensor] | None:
        """The scores (T, B), and the slopes and their squares, summed over the views: (T, 2, h, w)."""
        views = canvas.inputs(masks(numbers), torch.full_like(numbers, len(canvas.filling) - 1)).tensor
        views.requires_grad_()
        with detector.borrowed(), torch.enable_grad():
            scores = score_targets(scorer.targets, detector.candidates(canvas.clean.with_tensor(views)))
            if not scores.requires_grad:
                return None
            sums = [summed(slopes) for (slopes,) in gradients_of_each(list(scores.sum(1)), [views])]
        return scores.detach().float(), torch.stack(sums)

    def summed(gradient: Tensor) -> Tensor:
        slopes = (difference * gradient[inside]).sum(1).abs().float()
        slopes = smoothed(slopes, (SMOOTHING, SMOOTHING))
        return torch.stack([slopes.sum(0), slopes.square().sum(0)])

    at_once = scorer.batch_size or batch_size_for(image.device, WITH_GRAPH * image.numel() * image.element_size())
    all_scores, total = [], torch.zeros((), device=image.device)
    for _, found in in_batches(torch.arange(n_masks, device=image.device), at_once, run):
        if found is None:
            log.info("soft masks are not traced back: the score has no gradients")
            return None
        scores, sums = found
        all_scores.append(scores)
        total = total + sums
        if scorer.on_views is not None:
            scorer.on_views(scores.shape[1])
    mean, square = (total / n_masks).unbind(1)
    variance = (square - mean.square()).clamp(min=0)
    return Traced(torch.cat(all_scores, 1), Estimate(mean, (variance / (n_masks - 1)).sqrt()))
