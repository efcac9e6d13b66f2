"""Second stage: what became of every box at the operating point, and what each mistake costs."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detxai.coco.manifest import fingerprint
from detxai.coco.request import CocoRequest
from detxai.coco.schema import BOX_COLUMNS, arrow_schema
from detxai.data.ap_loss import ap_losses
from detxai.data.cocoeval import class_ap, evaluate, iou_place, matching, summary
from detxai.data.error_kinds import KINDS, UNANNOTATED, LabelledBox, labelled_boxes
from detxai.data.tide import delta_ap
from detxai.formats import category_names
from detxai.runs.tables import is_whole_table


def label(request: CocoRequest, predictions: Any) -> dict[str, Any]:
    """Write ``boxes.parquet``, every box with its kind, and ``evaluation.json``; both are made once.

    Args:
        request: of the run.
        predictions: a ``COCO``, as ``detxai.coco.detect.detect`` gives it.

    Returns:
        The content of ``evaluation.json``.
    """
    folder, failed = request.folder, request.failed_images()
    evaluated = [file.image_id for file in request.files if file.image_id not in failed]
    left_out = [file.file_name for file in request.files if file.image_id in failed]
    key = _key(request, predictions, evaluated)
    record = None if request.evaluation is not None else _labelled_before(request, key)
    if record is not None:
        return record
    evaluation = request.evaluation
    if evaluation is None:
        evaluation = evaluate(request.annotations, predictions, image_ids=evaluated if failed else None)
    iou, point = request.options.iou, request.operating_point
    every = labelled_boxes(request.annotations, predictions, matching(evaluation, iou))
    boxes = boxes_at_operating_point(request.annotations, predictions, evaluation, iou, point, every)
    names = category_names(request.annotations.dataset["categories"])
    record = evaluation_record(evaluation, boxes, names, iou, point, left_out)
    record["delta_ap"] = delta_ap(every, evaluation.params.recThrs)
    folder.write_text(folder.labelled, "incomplete")  # killed from here on, it is all done again
    folder.write_json(folder.evaluation, record)
    folder.write_table(folder.boxes, (box.as_row() for box in boxes), arrow_schema(BOX_COLUMNS))
    if request.evaluation is None:  # one that was given may have other settings than the next run's own
        folder.write_text(folder.labelled, key)
    return record


def _key(request: CocoRequest, predictions: Any, evaluated: Sequence[int]) -> str:
    """SHA-256 of all that the labels depend on."""
    settings = request.options.iou, request.operating_point, list(evaluated)
    return hashlib.sha256(
        f"{fingerprint(request.annotations)} {fingerprint(predictions)} {settings}".encode()
    ).hexdigest()


def _labelled_before(request: CocoRequest, key: str) -> dict[str, Any] | None:
    """The content of ``evaluation.json`` where this run, or another shard of it, wrote both files already."""
    folder = request.folder
    try:
        if folder.labelled.read_text(encoding="utf-8") != key or not is_whole_table(folder.boxes):
            return None
        record: dict[str, Any] = json.loads(folder.evaluation.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def boxes_at_operating_point(
    annotations: Any,
    predictions: Any,
    evaluation: Any,
    iou: float,
    operating_point: float,
    every: Sequence[LabelledBox] | None = None,
) -> list[LabelledBox]:
    """Every prediction that scores ``operating_point`` or more, and every annotation that none of these found.

    AP counts all predictions, so what a mistake costs is measured among all of them. An annotation that a weaker
    prediction finds is missed here, and found for AP: as a miss it costs nothing.

    Args:
        annotations: a ``COCO``.
        predictions: a ``COCO``.
        evaluation: the finished COCOeval of the two.
        iou: IoU threshold for a match.
        operating_point: a score.
        every: all predictions and misses, whatever their score, where they are labelled already.
    """
    matched = matching(evaluation, iou)
    every = labelled_boxes(annotations, predictions, matched) if every is None else every
    losses = dict(zip(map(_identity, every), ap_losses(every, evaluation, iou), strict=True))
    return [
        replace(
            box,
            ap_loss=losses.get(_identity(box), 0.0),
            found_below=_found_below(box, matched.annotations, predictions),
        )
        for box in labelled_boxes(annotations, predictions, matched.from_score(predictions, operating_point))
    ]


def _identity(box: LabelledBox) -> tuple[int | None, int | None]:
    return box.prediction_id, box.annotation_id if box.prediction_id is None else None


def _found_below(box: LabelledBox, finders: Mapping[Any, int], predictions: Any) -> float | None:
    finder = finders[box.annotation_id] if box.kind == "missed" else 0
    return float(predictions.anns[finder]["score"]) if finder else None


def evaluation_record(
    evaluation: Any,
    boxes: Sequence[LabelledBox],
    category_names: Mapping[int, str],
    iou: float,
    operating_point: float,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """COCO's numbers and the counts of kinds, as JSON can hold them; None where there is nothing to count.

    AP is of all predictions, as COCO's is; kinds are of those from the operating point on. ``label`` adds ``delta_ap``.

    ``missed`` counts every annotation without a match, as COCOeval does; ``missed_alone`` those of them that no
    misplaced or misclassified prediction lies on, which is what TIDE calls missed.

    Args:
        evaluation: a finished COCOeval.
        boxes: at the operating point.
        category_names: category id -> name.
        iou: IoU threshold for a match.
        operating_point: score from which a prediction counts.
        left_out: file names of the images that are in no figure, because they could not be read or detected in.
    """
    over_ious, at_iou = (
        class_ap(evaluation),
        class_ap(evaluation, evaluation.params.iouThrs[iou_place(evaluation, iou)]),
    )
    counts = Counter((box.category_id, box.kind) for box in boxes)
    unannotated = evaluation.cocoGt.dataset.get(UNANNOTATED, False)
    kinds = [kind for kind in KINDS if kind != UNANNOTATED or unannotated]
    classes = [
        {
            "category_id": category,
            "category": category_names.get(category, str(category)),
            "AP": _number(ap),
            "AP_at_iou": _number(at_iou[category]),
            **{kind: counts[category, kind] for kind in kinds},
        }
        for category, ap in over_ious.items()
    ]
    return {
        "images": {"evaluated": len(evaluation.params.imgIds), "left_out": list(left_out)},
        "iou": iou,
        "operating_point": operating_point,
        "summary": {name: _number(value) for name, value in summary(evaluation).items()},
        "kinds": {kind: sum(row[kind] for row in classes) for kind in kinds},
        "missed_alone": sum(box.kind == "missed" and box.covered_by is None for box in boxes),
        "classes": classes,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
