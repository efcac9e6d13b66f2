"""What became of every box at the operating point, and what each mistake costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detxai.data.ap_loss import ap_losses
from detxai.data.cocoeval import matching
from detxai.data.error_kinds import Case, cases


def label(annotations: Any, predictions: Any, evaluation: Any, iou: float, operating_point: float) -> list[Case]:
    """Every prediction that scores ``operating_point`` or more, and every annotation that none of these found.

    AP counts all predictions, so what a mistake costs is measured among all of them. An annotation that a weaker
    prediction finds is missed here, and found for AP: as a miss it costs nothing.

    Args:
        annotations: a ``COCO``.
        predictions: a ``COCO``.
        evaluation: the finished COCOeval of the two.
        iou: from which a prediction finds an annotation.
        operating_point: a score.
    """
    matched = matching(evaluation, iou)
    every = cases(annotations, predictions, matched)
    losses = dict(zip(map(_key, every), ap_losses(every, evaluation, iou), strict=True))
    return [
        replace(
            case, ap_loss=losses.get(_key(case), 0.0), found_below=_found_below(case, matched.annotations, predictions)
        )
        for case in cases(annotations, predictions, matched.from_score(predictions, operating_point))
    ]


def _key(case: Case) -> tuple[int | None, int | None]:
    return case.prediction_id, case.annotation_id if case.prediction_id is None else None


def _found_below(case: Case, finders: Any, predictions: Any) -> float | None:
    finder = finders[case.annotation_id] if case.kind == "missed" else 0
    return float(predictions.anns[finder]["score"]) if finder else None
