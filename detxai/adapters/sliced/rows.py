"""Candidates of many slices, put together as the candidates of their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.detections import Candidates


def stacked(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of several batches as those of one, in order, padded with empty boxes.

    Where they are detections, which list only the classes that they contain, the classes are those of all together.

    Raises:
        ValueError: some are detections and others not, or their classes differ.
    """
    full = [part for part in parts if part.boxes.shape[1]]
    if not full:
        return _none_like(max(parts, key=lambda part: len(part.labels)), sum(map(len, parts)))
    if len({part.final for part in full}) > 1:
        raise ValueError("the detector must answer all slices with detections or all with candidates, got both")
    labels = torch.cat([part.labels for part in full]).unique() if full[0].final else full[0].labels
    if any(not part.final and not torch.equal(part.labels, labels) for part in full):
        raise ValueError("the detector must answer all slices with candidates of the same classes, got different ones")
    n_candidates = max(part.boxes.shape[1] for part in full)
    parts = [part if part.boxes.shape[1] else _none_like(full[0], len(part)) for part in parts]
    rows = [_rows(part, labels, n_candidates) for part in parts]
    if any(row.proposals is None for row in rows):
        rows = [replace(row, proposals=None) for row in rows]
    return Candidates.cat(rows, dim=0)


def side_by_side(rows: Candidates, table: Tensor) -> Candidates:
    """The candidates of B images, each with the candidates of W rows one after the other.

    Args:
        rows: (R, N, ...) candidates.
        table: (B, W) int64 on the CPU, which rows belong to each image, from 0 to R - 1, or -1 for none.
    """
    has_gaps, table = bool((table < 0).any()), table.to(rows.boxes.device)
    gathered = {}
    for name in _fields(rows):
        values = getattr(rows, name)
        with_empty = F.pad(values, [0, 0] * (values.ndim - 1) + [0, 1]) if has_gaps else values
        gathered[name] = with_empty[table].flatten(1, 2)
    return _with(rows, gathered)


def _with(candidates: Candidates, tensors: dict[str, Tensor]) -> Candidates:
    return replace(candidates, **tensors)  # type: ignore[arg-type]  # these fields are tensors


def _fields(candidates: Candidates) -> list[str]:
    return ["boxes", "class_scores", "objectness"] + (["proposals"] if candidates.proposals is not None else [])


def _rows(part: Candidates, labels: Tensor, n_candidates: int) -> Candidates:
    """The same candidates with columns for all ``labels``, padded to ``n_candidates``."""
    scores = part.class_scores
    if not torch.equal(part.labels, labels):
        column = (part.labels[:, None] == labels).to(scores)  # (own classes, all classes), one 1 in each row
        scores = scores @ column
    missing = n_candidates - part.boxes.shape[1]
    return replace(
        part,
        boxes=F.pad(part.boxes, [0, 0, 0, 0, 0, missing]),
        class_scores=F.pad(scores, [0, 0, 0, missing]),
        objectness=F.pad(part.objectness, [0, missing]),
        proposals=None if part.proposals is None else F.pad(part.proposals, [0, 0, 0, missing]),
        labels=labels,
    )


def _none_like(like: Candidates, n_rows: int) -> Candidates:
    none = {name: getattr(like, name)[:1, :0] for name in _fields(like)}
    return _with(like, {name: empty.expand(n_rows, *empty.shape[1:]) for name, empty in none.items()})
