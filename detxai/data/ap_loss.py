"""What one mistake costs: the AP of its class without it, less the AP with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.data.cocoeval import class_ap
from detxai.data.error_kinds import FALSE_POSITIVES, LabelledBox

Curve = npt.NDArray[np.float64]


def ap_losses(boxes: Sequence[LabelledBox], evaluation: Any, iou: float) -> list[float | None]:
    """For each box, how much the mean AP at this IoU would rise were this one mistake not there.

    A false positive is taken away; a missed annotation is no longer counted (which changes nothing where it is the
    only one of its class). Each alone: the losses of several do not add up. None for what is no mistake. The AP is
    COCOeval's: 101 recalls, interpolated precision, the mean over the classes that have annotations.

    Args:
        boxes: all of them, as ``detxai.data.error_kinds.labelled_boxes`` gives them.
        evaluation: the finished COCOeval that they come from.
        iou: the one they were matched at.
    """
    n_classes = sum(not np.isnan(ap) for ap in class_ap(evaluation, iou).values())
    order = {image_id: place for place, image_id in enumerate(evaluation.params.imgIds)}
    by_class: dict[int, list[int]] = defaultdict(list)
    for place, box in enumerate(boxes):
        by_class[box.category_id].append(place)
    losses: list[float | None] = [None] * len(boxes)
    for places in by_class.values():
        # as COCOeval.accumulate: images in its order, best scores first, ties as they come
        scored = [place for place in places if boxes[place].score is not None and boxes[place].kind != "ignored"]
        scored.sort(key=lambda place: (-(boxes[place].score or 0), order[boxes[place].image_id]))
        missed = [place for place in places if boxes[place].kind == "missed"]
        hits = np.array([boxes[place].kind == "true_positive" for place in scored], dtype=bool)
        n_positive = int(hits.sum()) + len(missed)
        if n_positive == 0:
            continue  # no annotations: the class has no AP
        recalls = np.asarray(evaluation.params.recThrs, dtype=np.float64)
        gains, miss_gain = _gains(hits, n_positive, recalls)
        for place, gain in zip(scored, gains.tolist(), strict=True):
            if boxes[place].kind in FALSE_POSITIVES:
                losses[place] = gain / n_classes
        for place in missed:
            losses[place] = miss_gain / n_classes
    return losses


def _gains(hits: npt.NDArray[np.bool_], n_positive: int, recalls: Curve) -> tuple[Curve, float]:
    """How much a class's AP rises without each prediction (0 for a hit), and without one missed annotation.

    Precision peaks at hits, so only they are looked at. Without the false positive between hits g - 1 and g, the hits
    before keep their precision, and those from g on have one prediction fewer before them.
    """
    ranks = np.flatnonzero(hits) + 1.0  # predictions up to and including each hit
    count = np.arange(1, len(ranks) + 1)
    before, best_after = count / ranks, _best_from(count / np.maximum(ranks - 1, count))
    total = float(_best_from(before)[_first_hit(len(ranks), n_positive, recalls)].sum())
    first = _first_hit(len(ranks), n_positive, recalls)
    best_before = np.zeros(len(recalls))
    gain_before_hit = np.zeros(len(ranks) + 1)  # behind the last hit nothing changes
    for g in range(len(ranks)):
        if g:
            best_before = np.where(first < g, np.maximum(best_before, before[g - 1]), best_before)
        best = np.where(first < g, np.maximum(best_before, best_after[g]), best_after[first])
        gain_before_hit[g] = best.sum() - total
    gains = np.where(hits, 0.0, gain_before_hit[np.cumsum(hits)])
    fewer = total
    if n_positive > 1:
        fewer = float(_best_from(before)[_first_hit(len(ranks), n_positive - 1, recalls)].sum())
    return gains / len(recalls), (fewer - total) / len(recalls)


def _first_hit(n_hits: int, n_positive: int, recalls: Curve) -> npt.NDArray[np.int64]:
    """For each recall the first hit that reaches it; ``n_hits`` where none does."""
    reached = np.arange(1, n_hits + 1) / n_positive
    return np.searchsorted(reached, recalls, side="left")


def _best_from(precision: Curve) -> Curve:
    """The best precision at each hit or a later one; 0 behind the last."""
    return np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
