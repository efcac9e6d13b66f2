"""Candidates selected, repeated for a batch of ablations, and joined again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detxai.detections import Candidates
from detxai.engine.batching import slots


def chosen(candidates: Candidates, places: Tensor) -> Candidates:
    """Those at these places (n,)."""
    return replace(
        candidates,
        boxes=candidates.boxes[:, places],
        class_scores=candidates.class_scores[:, places],
        objectness=candidates.objectness[:, places],
    )


def padded(parts: Sequence[tuple[Tensor, Tensor, Tensor]], batch: int) -> tuple[Tensor, Tensor]:
    """Single candidates, each of one ablation, as boxes (B, n, 4) and scores (B, n, C), filled up with zeros."""
    row, boxes, scores = (torch.cat(column) for column in zip(*parts))
    order = row.argsort(stable=True)
    row = row[order]
    slot, n = slots(row, batch)
    n = max(n, 1)  # where nothing is left over and there is no other level
    wide = boxes.new_zeros(batch, n, 4)
    wide[row, slot] = boxes[order]
    deep = scores.new_zeros(batch, n, scores.shape[1])
    deep[row, slot] = scores[order]
    return wide, deep


def repeated(candidates: Candidates, batch: int) -> Candidates:
    """Candidates of one image, for each of a batch of versions of it."""
    return replace(
        candidates,
        boxes=candidates.boxes.expand(batch, -1, -1, -1),
        class_scores=candidates.class_scores.expand(batch, -1, -1),
        objectness=candidates.objectness.expand(batch, -1),
    )


def joined(parts: Sequence[Candidates]) -> Candidates:
    """One after another, for each version of the image."""
    return replace(
        parts[0],
        boxes=torch.cat([part.boxes for part in parts], 1),
        class_scores=torch.cat([part.class_scores for part in parts], 1),
        objectness=torch.cat([part.objectness for part in parts], 1),
    )
