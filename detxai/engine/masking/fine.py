"""Fine masks: what lies where, within the part of the image that a coarse map marked?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.estimating import Estimate
from detxai.engine.masking.soft.masks import uniforms

MARKED = 0.2  # of a map's highest value: from there on a pixel is in the zone that is masked
MASKS_A_CELL = 2.5  # so that the effect of every cell can be estimated
MOST_CELLS = 32  # across the shorter side of the image
POINTS = 3  # where slopes are estimated, across the smallest cell
SHOWN = 0.65  # of the zone, in every view
SHARPENING = 2.0  # what a pixel gains at most from the fine masks, as a share of its value
PENALTIES = (0.1, 0.3, 1.0, 3.0)  # of the ridge, as shares of the masks' mean variance


@dataclass(frozen=True, eq=False)
class FineMasks:
    """Smooth random masks over one zone of the image for each of T boxes; the rest of the image is always shown.

    Like RISE's (``soft/masks.py``), but the size of the cells differs from box to box.

    Attributes:
        zones: (T, h, w) bool.
        cells: (T,) float32, the side of a cell in pixels, at least ``min(h, w) / MOST_CELLS``.
        n_each: masks for each box: those of box t have the numbers from ``t * n_each``.
        seed: of the masks.
    """

    zones: Tensor
    cells: Tensor
    n_each: int
    seed: int

    @classmethod
    def over(cls, maps: Tensor, n_each: int, seed: int) -> FineMasks:
        """Masks over what is high in each of T coarse maps (T, h, w)."""
        zones = (maps > 0) & (maps >= MARKED * maps.amax((1, 2), keepdim=True))
        side = (zones.sum((1, 2)).float() * MASKS_A_CELL / n_each).sqrt()
        return cls(zones, side.clamp(min=min(maps.shape[1:]) / MOST_CELLS), n_each, seed)

    def __call__(self, numbers: Tensor, step: int = 1) -> Tensor:
        """Masks by number (B,): (B, h, w) float32 in [0, 1], or every ``step``-th row and column of them."""
        box = numbers // self.n_each
        n_corners = math.ceil(max(self.zones.shape[1:]) / min(self.zones.shape[1:]) * MOST_CELLS) + 2
        uniform = uniforms(self.seed, numbers, torch.arange(n_corners**2 + 2, device=numbers.device)).float()
        corners = (uniform[:, 2:] < SHOWN).float().unflatten(1, (n_corners, n_corners))
        sides = []
        for axis in (0, 1):
            pixels = torch.arange(0, self.zones.shape[axis + 1], step, device=numbers.device)
            places = pixels / self.cells[box, None] + uniform[:, axis, None]
            distances = places[..., None] - torch.arange(n_corners, device=numbers.device)
            sides.append((1 - distances.abs()).clamp(min=0))  # (B, pixels, corners): linear in between
        soft = sides[0] @ corners @ sides[1].transpose(1, 2)
        return torch.where(self.zones[box, ::step, ::step], soft, 1.0)

    @cached_property
    def step(self) -> int:
        """How many pixels lie between the points where slopes are estimated."""
        return max(1, min(self.zones.shape[1:]) // (MOST_CELLS * POINTS))


def sharpened(scorer: ViewScorer, coarse: Estimate, boxes: Tensor, n_masks: int, seed: int) -> Estimate:
    """Coarse maps (T, h, w), in which some boxes' pixels gain by ``fine_masks``; errors in proportion.

    Args:
        scorer: of the T targets.
        boxes: (S,) int64, which of the T.
        n_masks: views for each of these.
        seed: of the masks.
    """
    asked = [scorer.targets[i] for i in boxes.tolist()]
    fine = fine_masks(replace(scorer, targets=asked), coarse.values[boxes], n_masks, seed)
    gain = torch.ones_like(coarse.values).index_add(0, boxes, SHARPENING * fine)
    return Estimate(coarse.values * gain, coarse.standard_error * gain)


def fine_masks(scorer: ViewScorer, coarse: Tensor, n_masks: int, seed: int) -> Tensor:
    """(T, h, w) in [0, 1]: the slopes of the score, where positive, within what is high in T coarse maps; 0 elsewhere.

    The slopes are those of a ridge regression on the masks' pixels, its penalty the best of ``PENALTIES`` by
    leave-one-out (Allen, 1974, Technometrics 16); each map is scaled to a maximum of 1.

    Args:
        scorer: of T targets; the last of its canvas's fillings is used.
        coarse: (T, h, w) over the canvas.
        n_masks: views for each box.
        seed: of the masks.
    """
    n_boxes, canvas = len(scorer.targets), scorer.canvas
    masks = FineMasks.over(coarse, n_masks, seed)
    numbers = torch.arange(n_boxes * n_masks, device=coarse.device)
    last = torch.full_like(numbers, len(canvas.filling) - 1)
    own = numbers // n_masks
    scores = scorer.own_under_masks(masks, numbers, own, last).view(n_boxes, n_masks)
    slopes = []
    for of_box, some in zip(scores, numbers.view(n_boxes, n_masks), strict=True):  # a box at a time: memory, not speed
        shown = masks(some, masks.step)
        slopes.append(_slopes(shown.flatten(1), of_box).view(shown.shape[1:]))
    size = canvas.size
    maps = F.interpolate(torch.stack(slopes)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps.clamp(min=0) * masks.zones
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def _slopes(features: Tensor, scores: Tensor) -> Tensor:
    """(q,) the slopes of scores (n,) along features (n, q), n being far smaller than q: ridge in its dual form."""
    features, scores = features - features.mean(0), scores - scores.mean()
    gram = features @ features.T
    scale = gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    ridges = gram.new_tensor(PENALTIES)[:, None, None] * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram / scale + ridges))  # (P, n, n)
    weights = inverse @ scores
    left_out = weights / inverse.diagonal(dim1=1, dim2=2)
    best = left_out.square().sum(1).argmin()
    return features.T @ weights[best] / scale
