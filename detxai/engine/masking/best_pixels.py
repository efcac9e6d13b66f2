"""Maps on trial: what do the best pixels of a map bring, shown alone, and take away, hidden alone?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detxai.adapters.adapter import Adapter
from detxai.engine.masking.scoring import scores_under
from detxai.engine.perturbing import Canvas
from detxai.targets import Target

OF_BOX = (0.25, 0.5, 1.0)  # areas tried, as shares of the box's
VIEWS_A_MAP = 2 * len(OF_BOX)


def try_best_pixels(
    detector: Adapter, canvas: Canvas, targets: Sequence[Target], maps: Tensor, boxes: Tensor, settings: dict[str, Any]
) -> Tensor:
    """(M, T): the mean score with only the best pixels shown less the mean with only them hidden.

    The pixels are those of highest value, as many as a quarter, half and all of the box's area, each under one of the
    canvas's fillings in turn: ``VIEWS_A_MAP`` views for each map.

    Args:
        detector: what is asked.
        canvas: the image and its F fillings.
        targets: T questions.
        maps: (M, T, h, w) over the canvas: M maps for each box, all tried on areas of the same size.
        boxes: (T, 4) xyxy in pixels of the canvas.
        settings: of ``scores_under``.
    """
    n_maps, n_boxes, height, width = maps.shape
    n_pixels, n_areas = height * width, len(OF_BOX)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    counts = (area[:, None] * area.new_tensor(OF_BOX)).round().long().clamp(1, n_pixels)
    ordered = maps.flatten(2).sort(2, descending=True).values
    least = ordered.gather(2, (counts - 1).expand(n_maps, -1, -1))  # (M, T, A)
    shape = (n_maps, n_boxes, n_areas, 2)  # a view of each; the last axis: shown or hidden
    numbers = torch.arange(torch.Size(shape).numel(), device=maps.device)
    which_map, box, of_box, hides = (axis.flatten() for axis in torch.unravel_index(numbers, shape))

    fills = of_box % len(canvas.filling)

    def masks(part: Tensor) -> Tensor:
        threshold = least[which_map[part], box[part], of_box[part]][:, None, None]
        best = maps[which_map[part], box[part]] >= threshold
        return (best ^ hides[part].bool()[:, None, None]).float()

    scored = [s for _, s in scores_under(masks, numbers, detector, canvas, targets, fills=fills, **settings)]
    scores = torch.cat(scored, 1).gather(0, box[None])[0].view(shape)
    return (scores[..., 0] - scores[..., 1]).mean(2)
