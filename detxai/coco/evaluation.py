"""AP, and how many boxes are of each kind: what ``evaluation.json`` holds and the command prints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from detxai.data.cocoeval import class_ap, iou_place, summary
from detxai.data.error_kinds import KINDS, Case


def evaluation_record(
    evaluation: Any,
    cases: Sequence[Case],
    category_names: Mapping[int, str],
    iou: float,
    operating_point: float,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """COCO's numbers and the counts of kinds, as JSON can hold them; None where there is nothing to count.

    AP is of all predictions, as COCO's is; kinds are of those from the operating point on.

    ``missed`` counts every annotation that nobody found, as COCOeval does; ``missed_alone`` those of them that no
    misplaced or misclassified prediction meant, which is what TIDE calls missed.

    Args:
        evaluation: a finished COCOeval.
        cases: at the operating point.
        category_names: category id -> name.
        iou: from which a prediction finds an annotation.
        operating_point: score from which a prediction counts.
        left_out: file names of the images that are in no figure, because they could not be read or detected in.
    """
    over_ious, at_iou = (
        class_ap(evaluation),
        class_ap(evaluation, evaluation.params.iouThrs[iou_place(evaluation, iou)]),
    )
    counts = Counter((case.category_id, case.kind) for case in cases)
    classes = [
        {
            "category_id": category,
            "category": category_names.get(category, str(category)),
            "AP": _number(ap),
            "AP_at_iou": _number(at_iou[category]),
            **{kind: counts[category, kind] for kind in KINDS},
        }
        for category, ap in over_ious.items()
    ]
    return {
        "images": {"evaluated": len(evaluation.params.imgIds), "left_out": list(left_out)},
        "iou": iou,
        "operating_point": operating_point,
        "summary": {name: _number(value) for name, value in summary(evaluation).items()},
        "kinds": {kind: sum(row[kind] for row in classes) for kind in KINDS},
        "missed_alone": sum(case.kind == "missed" and case.covered_by is None for case in cases),
        "classes": classes,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
