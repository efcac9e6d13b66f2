"""What each kind of mistake costs, as TIDE measures it: the mean AP were all mistakes of the kind corrected.

Source: Bolya et al., 2020, TIDE: A General Toolbox for Identifying Object Detection Errors (ECCV), section 2.3, and its
reference implementation, tidecv 1.0.1: a misplaced or misclassified prediction becomes a hit on the annotation that it
meant, unless that one is found or another such prediction with a higher score means it too: then it is taken away, as
are duplicates and predictions that are both or on the background; a missed annotation is no longer counted, and a class
left without any has an AP of 0 where it has predictions, and none where it has not. A gain below 0, which binning can
make, counts as 0.

Differs: AP is COCOeval's mean over the classes that are annotated; tidecv counts an AP of 0 for every other class that
has predictions. Predictions on crowds are no mistakes here; tidecv may correct them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detxai.data.error_kinds import ERRORS, Kind, LabelledBox

MEANT = ("localisation", "classification")  # kinds that are corrected to a hit on the annotation that they meant


@dataclass
class _ClassScores:
    """The predictions of one class that count, and how many annotations there are."""

    scores: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    n_annotations: int = 0

    def add(self, score: float, hit: bool) -> None:
        self.scores.append(score)
        self.hits.append(hit)


def delta_ap(boxes: Sequence[LabelledBox], recalls: npt.NDArray[np.float64]) -> dict[Kind, float]:
    """Kind of mistake -> how much the mean AP would rise were all of that kind corrected; they do not add up.

    Args:
        boxes: every prediction, whatever its score, and every missed annotation, as
            ``detxai.data.error_kinds.labelled_boxes`` gives them.
        recalls: at which precision is read, as COCOeval's ``recThrs``.

    >>> truth, other = (0.0, 0.0, 9.0, 9.0), (50.0, 50.0, 59.0, 59.0)
    >>> hit = LabelledBox(1, 1, truth, "true_positive", score=0.5, prediction_id=2, annotation_id=1)
    >>> ghost = LabelledBox(1, 1, other, "background", score=0.9, prediction_id=1)
    >>> delta_ap([ghost, hit], np.linspace(0, 1, 101))["background"]
    0.5
    """
    best = _best_for_each_annotation(boxes)
    now = _classes(boxes, (), best)
    annotated = [category for category, one in now.items() if one.n_annotations]
    if not annotated:
        return dict.fromkeys(ERRORS, 0.0)
    before = _mean_ap(now, annotated, recalls)
    after = {kind: _mean_ap(_classes(boxes, (kind,), best), annotated, recalls) for kind in ERRORS}
    return {kind: max(0.0, ap - before) for kind, ap in after.items()}


def _best_for_each_annotation(boxes: Iterable[LabelledBox]) -> dict[int, int]:
    """Missed annotation -> the prediction with the highest score of those that meant it; the first where they tie."""
    missed = {box.annotation_id for box in boxes if box.kind == "missed"}
    best: dict[int, LabelledBox] = {}
    for box in boxes:
        if box.kind in MEANT and box.annotation_id in missed and box.annotation_id is not None:
            known = best.get(box.annotation_id)
            if known is None or (box.score or 0.0) > (known.score or 0.0):
                best[box.annotation_id] = box
    return {annotation: box.prediction_id or 0 for annotation, box in best.items()}


def _classes(boxes: Sequence[LabelledBox], corrected: Collection[str], best: dict[int, int]) -> dict[str, _ClassScores]:
    """Category -> its predictions and annotations after all mistakes of some kinds were corrected."""
    classes: dict[str, _ClassScores] = defaultdict(_ClassScores)
    for box in boxes:
        if box.kind == "missed":
            lost = box.covered_by is None and "missed" in corrected
            classes[box.category].n_annotations += not lost
        elif box.kind == "true_positive":
            classes[box.category].n_annotations += 1
            classes[box.category].add(box.score or 0.0, True)
        elif box.kind in ERRORS:
            if box.kind not in corrected:
                classes[box.category].add(box.score or 0.0, False)
            elif box.kind in MEANT and box.prediction_id == best.get(box.annotation_id or 0):
                meant = box.category if box.kind == "localisation" else box.annotation_category or ""
                classes[meant].add(box.score or 0.0, True)
    return classes


def _mean_ap(classes: dict[str, _ClassScores], annotated: Sequence[str], recalls: npt.NDArray[np.float64]) -> float:
    """The mean over the classes that were annotated before any correction, and still have anything."""
    left = [classes[category] for category in annotated if category in classes]
    values = [_ap(one, recalls) for one in left if one.n_annotations or one.scores]
    return float(np.mean(values)) if values else 0.0


def _ap(one: _ClassScores, recalls: npt.NDArray[np.float64]) -> float:
    """The mean, over the recalls, of the best precision at this recall or a higher one; 0 without annotations."""
    if not one.n_annotations:
        return 0.0
    order = np.argsort(-np.array(one.scores), kind="stable")
    found = np.cumsum(np.array(one.hits, dtype=bool)[order])
    precision = found / np.arange(1, len(found) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(found / one.n_annotations, recalls, side="left")].mean())
