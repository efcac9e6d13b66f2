"""Decisive sets: how much of the image, best pixels first, keeps a box, and how much of it must go to lose the box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.regions import Partitions
from detxai.engine.masking.scoring import ViewScorer

ACROSS_BOX = 6  # cells across the box's shorter side
MOST_ACROSS = 32  # cells across the image's longer side


def decisive_cells(
    scorer: ViewScorer, maps: Tensor, boxes: Tensor, keeps: float = 0.5
) -> tuple[list[dict[str, Any]], int]:
    """For each of T boxes the fewest cells, in the order of its map, that keep it and whose removal loses it.

    Cells are squares of a sixth of the box. A box is kept where its score is at least ``keeps`` of the clean one under
    the first of the canvas's fillings. How many cells that takes is found by bisection, so the sets are the smallest of
    those that take the map's best cells first, if the score rises with them.

    Args:
        scorer: of T targets.
        maps: (T, h, w) over the canvas.
        boxes: (T, 4) xyxy in pixels of the canvas.
        keeps: share of the clean score, in (0, 1].

    Returns:
        For each box ``{"sufficient": ..., "necessary": ...}``, each a dict of ``cells`` (xyxy lists in pixels of the
        image), ``area`` (their share of the image) and ``score`` (what is left of the clean score); and how many
        passes it took.
    """
    canvas = scorer.canvas
    cells = _cells(canvas.size, boxes)
    held = cells.sums(maps) / cells.areas.clamp(min=1)
    absent = torch.arange(held.shape[1], device=held.device) >= cells.counts[:, None]
    order = held.masked_fill(absent, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    rank = rank.gather(1, cells.labels.flatten(1)).view_as(cells.labels)
    n = len(scorer.targets)
    which = torch.arange(n, device=rank.device).repeat(2)
    hides = torch.arange(2 * n, device=rank.device) >= n  # the first half shows its cells, the second hides them

    def score(shown: Tensor) -> Tensor:
        def masks(numbers: Tensor) -> Tensor:
            among = rank[which[numbers]] < shown[numbers][:, None, None]
            return (among ^ hides[numbers][:, None, None]).float()

        return scorer.own_under_masks(masks, torch.arange(2 * n, device=rank.device), which)

    low, high = torch.zeros_like(which), cells.counts[which]
    clean = score(torch.where(hides, 0, high))
    final, rounds = score(high), 2
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        found = score(middle)
        rounds += 1
        enough = torch.where(hides, found < keeps * clean, found >= keeps * clean)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        final = torch.where(enough, found, final)
    left = (final / clean.clamp(min=torch.finfo(clean.dtype).tiny)).tolist()
    cells, order = Partitions(cells.labels.cpu(), cells.counts.cpu()), order.cpu()  # one wait, not some for each cell
    sets = [_set(canvas, cells, order, i % n, shown, left[i]) for i, shown in enumerate(high.tolist())]
    return [{"sufficient": sets[i], "necessary": sets[n + i]} for i in range(n)], rounds * 2 * n


def _cells(size: tuple[int, int], boxes: Tensor) -> Partitions:
    """A grid of squares over the whole image for each box."""
    shorter = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    side = (shorter / ACROSS_BOX).clamp(min=max(size) / MOST_ACROSS)
    rows, columns = ((torch.arange(n, device=boxes.device) / side[:, None]).floor().long() for n in size)
    return Partitions.from_labels(rows[:, :, None] * (MOST_ACROSS + 1) + columns[:, None])


def _set(canvas: Canvas, cells: Partitions, order: Tensor, box: int, n: int, left: float) -> dict[str, Any]:
    labels = cells.labels[box]
    (top, image_left), rectangles = canvas.geometry.offset, []
    for cell in order[box, :n].tolist():
        ys, xs = (labels == cell).nonzero(as_tuple=True)
        corners = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        on_input = torch.tensor(corners, dtype=torch.float32) + torch.tensor([image_left, top, image_left, top])
        rectangles.append([round(v, 1) for v in canvas.geometry.boxes_to_image(on_input).tolist()])
    area = float(cells.areas[box, order[box, :n]].sum() / labels.numel())
    return {"cells": rectangles, "area": area, "score": left}
