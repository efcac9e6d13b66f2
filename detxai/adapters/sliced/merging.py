"""Detections of one object in several slices, merged as SAHI merges them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from detxai.adapters.sliced.slicing import MatchMetric, Slicing
from detxai.detections import Detections

Boxes = npt.NDArray[np.floating]


def merged(found: Detections, slicing: Slicing) -> Detections:
    """The detections after merging those that match, by falling score.

    From the best score down, each box left claims the others left that overlap it by ``match_threshold`` or more.
    With ``"nms"`` the claimed boxes are dropped. With ``"greedy_nmm"`` the claiming box is extended by one claimed box
    after the other, to the box around both, as long as the two still overlap by the threshold; the rest are dropped.

    Args:
        found: of one image; boxes without area are left out.
        slicing: how boxes match, and how matching ones are merged.

    Source: sahi's ``GreedyNMMPostprocess`` and ``NMSPostprocess``, in float32 as they compare.

    >>> found = Detections([[0, 0, 10, 10], [5, 0, 12, 10]], [0.5, 0.9], [1, 1])
    >>> [merged(found, Slicing(2, 2, merge=how)).boxes.tolist() for how in ("greedy_nmm", "nms")]
    [[[0.0, 0.0, 12.0, 10.0]], [[5.0, 0.0, 12.0, 10.0]]]
    """
    found = found.to("cpu")
    found = found[(found.boxes[:, 2:] > found.boxes[:, :2]).all(1)]
    boxes, scores, labels = found.boxes.numpy(), found.scores.numpy(), found.labels.numpy().copy()
    claims: dict[int, list[int]] = {}
    metric, threshold = slicing.match_metric, slicing.match_threshold
    for label in [None] if slicing.class_agnostic else np.unique(labels):
        rows = np.arange(len(labels)) if label is None else np.flatnonzero(labels == label)
        claimed = _claims(boxes[rows], scores[rows], metric, threshold)
        claims |= {int(rows[best]): rows[others].tolist() for best, others in claimed.items()}
    kept = sorted(claims, key=lambda row: -scores[row])
    grown = boxes.astype(np.float64)
    if slicing.merge == "greedy_nmm":
        for best in kept:
            for other in claims[best]:
                if _overlap(grown[best], grown[other][None], metric)[0] >= threshold:
                    grown[best, :2] = np.minimum(grown[best, :2], grown[other, :2])
                    grown[best, 2:] = np.maximum(grown[best, 2:], grown[other, 2:])
                    if not scores[best] > scores[other]:  # of equals, SAHI takes the other's class
                        labels[best] = labels[other]
    names: Mapping[int, str] = found.class_names
    rows = np.array(kept, dtype=np.int64)
    return Detections(grown[rows].astype(np.float32), scores[rows], torch.from_numpy(labels[rows]), names)


def _claims(boxes: Boxes, scores: Boxes, metric: MatchMetric, threshold: float) -> dict[int, list[int]]:
    """For each claiming box the boxes it claims, best score first; equal scores in the order of their corners."""
    left = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -scores))
    claims: dict[int, list[int]] = {}
    while len(left):
        best, others = left[0], left[1:]
        match = _overlap(boxes[best], boxes[others], metric) >= threshold
        claims[int(best)] = others[match].tolist()
        left = others[~match]
    return claims


def _overlap(box: Boxes, others: Boxes, metric: MatchMetric) -> Boxes:
    """(N,) of one box (4,) with others (N, 4), all with an area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1)
    overlap: Boxes = shared / (np.minimum(area, areas) if metric == "ios" else area + areas - shared)
    return overlap
