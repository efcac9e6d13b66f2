"""Soft masks: what each pixel does to the scores where a part of the image is hidden, softly and at random."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.estimating import Estimate, estimate
from detxai.engine.masking.soft.lattice import Lattice
from detxai.engine.masking.soft.masks import RiseMasks

CELLS_A_BOX = 2  # cells across the smallest box, so that its parts can be told apart
CELLS = (5, 24)  # across the shorter side: at least, at most
MASKS_A_CELL = 2  # at least: with as many cells as masks, or more, the slopes are little but noise
FIRST_PART = 30  # masks, after which maps are handed on; then whenever their number has doubled
SHOWN = 0.65  # of the image, in every view: a box that is hard to find is lost when half is hidden


def grid_for(size: tuple[int, int], boxes: Tensor, n_masks: int | None = None) -> tuple[int, int]:
    """(rows, columns) of cells that tell the parts of the smallest box apart, if so many masks can tell so many cells.

    Args:
        size: (height, width) of the masks in pixels.
        boxes: (T, 4) xyxy in those pixels.
        n_masks: how many masks there will be, at least; None: enough.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    smallest = float((width * height).sqrt().min())
    fewest, most = CELLS
    shorter = min(size)
    cell = min(max(smallest / CELLS_A_BOX, shorter / most), shorter / fewest)
    if n_masks is not None:
        cell = max(cell, math.sqrt(size[0] * size[1] * MASKS_A_CELL / n_masks))
    return max(1, round(size[0] / cell)), max(1, round(size[1] / cell))


def masks_for(canvas: Canvas, boxes: Tensor, seed: int, n_masks: int | None = None) -> RiseMasks:
    """The soft masks of one image for boxes (T, 4) xyxy in pixels of the canvas; ``n_masks`` as for ``grid_for``."""
    return RiseMasks(canvas.size, grid_for(canvas.size, boxes, n_masks), seed, SHOWN)


def soft_masks(
    scorer: ViewScorer,
    masks: RiseMasks,
    n_masks: int,
    scores: Tensor | None = None,
    on_part: Callable[[Estimate, int], object] | None = None,
) -> Estimate:
    """D-RISE's slopes for T boxes, by regression, under the last of the canvas's fillings: maps (T, h, w) over it.

    Args:
        scorer: of T targets.
        masks: of the canvas's size.
        n_masks: views, shared by all boxes.
        scores: (T, n) under the first n masks, where these are known.
        on_part: called with the maps of the masks so far, and how many these are, after some 30 of them and whenever
            there are twice as many. An estimate for many small cells takes as long as several views: more often would
            slow the work down.
    """
    canvas = scorer.canvas
    lattice, device = Lattice(masks), canvas.clean.tensor.device
    if scores is None:
        scores = torch.zeros(len(scorer.targets), 0, dtype=torch.float32, device=device)
    numbers = torch.arange(scores.shape[1], n_masks, device=device)

    def maps(scores: Tensor) -> Estimate:
        found = estimate(scores, lattice, "slope", "regression")
        return Estimate(*(lattice.to_pixels(one, canvas.size) for one in (found.values, found.standard_error)))

    next_part = FIRST_PART
    for batch in scorer.batches(masks, numbers, torch.full_like(numbers, len(canvas.filling) - 1)):
        scores = torch.cat([scores, batch], 1)
        n_so_far = scores.shape[1]
        if on_part is not None and next_part <= n_so_far < n_masks:
            on_part(maps(scores), n_so_far)
            next_part = 2 * n_so_far
    return maps(scores)
