"""Several maps compared by the scores that their best pixels give, shown alone and hidden alone."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.masking.scoring import ViewScorer

AREAS = (1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the image: more where a curve bends most
VIEWS_PER_MAP = 2 * len(AREAS)


def compare_best_pixels(scorer: ViewScorer, maps: Tensor, hidden: Tensor, whole: Tensor) -> Tensor:
    """(M, T): how much higher the score is with a map's best pixels shown than with them hidden.

    That is the area between the insertion and the deletion curve, over the share of the image. Both curves have
    ``AREAS`` of the image as their points and are straight in between. The canvas's fillings alternate from point to
    point, and what is shown under one is hidden under the next: ``VIEWS_PER_MAP`` views for each map.

    Args:
        scorer: of T targets, on a canvas with F fillings.
        maps: (M, T, h, w) over the canvas: M maps for each box.
        hidden: (T, F) the scores with nothing shown.
        whole: (T,) the scores of the whole image.
    """
    n_maps, n_boxes, height, width = maps.shape
    areas = torch.tensor(AREAS, device=maps.device)
    counts = (areas * height * width).round().long().clamp(1, height * width)
    # one map at a time: sorting takes three times their memory
    thresholds = torch.stack(
        [one.flatten(1).sort(1, descending=True).values[:, counts - 1] for one in maps]
    )  # (M, T, A)
    shape = (n_maps, n_boxes, len(areas), 2)  # a view of each; the last axis: shown or hidden
    numbers = torch.arange(torch.Size(shape).numel(), device=maps.device)
    which_map, box, area, hides = (axis.flatten() for axis in torch.unravel_index(numbers, shape))

    def masks(part: Tensor) -> Tensor:
        threshold = thresholds[which_map[part], box[part], area[part]][:, None, None]
        best = maps[which_map[part], box[part]] >= threshold
        return (best ^ hides[part].bool()[:, None, None]).float()

    fills = (area + hides) % len(scorer.canvas.filling)
    scores = scorer.own_under_masks(masks, numbers, box, fills).view(shape)
    ends = (hidden.mean(1).to(scores), whole.to(scores))
    nothing, everything = (end[:, None].expand(n_maps, n_boxes, 1) for end in ends)
    shown = torch.cat([areas.new_zeros(1), areas, areas.new_ones(1)])
    insertion = torch.trapezoid(torch.cat([nothing, scores[..., 0], everything], 2), shown)
    deletion = torch.trapezoid(torch.cat([everything, scores[..., 1], nothing], 2), shown)
    return insertion - deletion
