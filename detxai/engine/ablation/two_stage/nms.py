"""Non-maximum suppression of many rows of boxes, each by itself."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops

from detxai.engine.batching import prefers_loop

PAIRS_AT_ONCE = 2**25  # of boxes whose overlap is held: about 1 GB on the way
CHECK_EVERY = 4  # rounds between two checks of whether all is settled, for which a device must be waited for


def suppress(boxes: Tensor, scores: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression of each row by itself: (B, n) True for the boxes that stay.

    Args:
        boxes: (B, n, 4) xyxy.
        scores: (B, n).
        valid: (B, n) boxes that take part.
        threshold: IoU above which the lower score goes.
    """
    wide = torch.promote_types(boxes.dtype, torch.float32)  # under autocast they come in several
    boxes, scores = boxes.to(wide), scores.to(wide)
    way = suppress_row_by_row if prefers_loop(boxes.device) else suppress_together
    return way(boxes, scores, valid, threshold)


def suppress_row_by_row(boxes: Tensor, scores: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """By torchvision, whose suppression of one row is serial: rows side by side on the threads of a CPU."""
    keep = torch.zeros_like(valid)

    def staying(row: int) -> Tensor:
        taking_part = valid[row].nonzero().flatten()
        return taking_part[box_ops.nms(boxes[row, taking_part], scores[row, taking_part], threshold)]

    rows = range(len(boxes))
    threads = min(torch.get_num_threads(), len(boxes))
    # written by the calling thread: what was made in inference mode can only be written there, which no other is in
    for row, stays in zip(rows, _pool(threads, os.getpid()).map(staying, rows) if threads > 1 else map(staying, rows)):
        keep[row, stays] = True
    return keep


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept from call to call; a process forked from this one has none of its threads, and makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="detxai-suppressing")


def suppress_together(boxes: Tensor, scores: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """The same answer for all rows at once, for a device that would wait on every row.

    A box stays if it overlaps no better box that stays. That has one solution; starting from all boxes, each round
    settles at least the best box that was not settled, and usually all but a few.
    """
    order = scores.masked_fill(~valid, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    ranked = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    rows_at_once = max(1, PAIRS_AT_ONCE // max(1, boxes.shape[1] ** 2))
    overlaps = torch.cat([_overlaps_better(part, threshold) for part in ranked.split(rows_at_once)])
    stays = _settled(overlaps, valid.gather(1, order))
    return torch.zeros_like(valid).scatter_(1, order, stays)


def _overlaps_better(boxes: Tensor, threshold: float) -> Tensor:
    """(B, n, n) 1 where box i overlaps the better box j < i, else 0; the IoU is computed as torchvision's nms does."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    overlaps = shared / (area[:, :, None] + area[:, None] - shared) > threshold
    return overlaps.tril(-1).to(torch.float32 if boxes.device.type == "cpu" else torch.float16)


def _settled(overlaps: Tensor, taking_part: Tensor) -> Tensor:
    """(B, n) the boxes that stay, of those in order of their scores that take part."""
    stays = taking_part
    while True:
        before = stays
        for _ in range(CHECK_EVERY):
            before, stays = stays, taking_part & ~((overlaps @ stays.to(overlaps.dtype)[..., None])[..., 0] > 0)
        if torch.equal(before, stays):
            return stays
