"""COCO annotations and results: lists of dicts with ``bbox`` and ``category_id``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detxai.detections import ClassNames, Detections
from detxai.formats.checks import class_numbers, expect_type

Records = Sequence[Mapping[str, Any]]


def from_coco(
    records: Records, class_names: ClassNames = (), *, label_to_category: Mapping[int, int] | None = None
) -> Detections:
    """COCO annotations or COCO results of one image, as detections.

    Annotations, which have no ``score``, get scores of 1. Crowds are boxes like any other here: leave them out first
    where they are none of yours.

    Args:
        records: dicts with ``bbox`` (x, y, width, height), ``category_id`` and, in results, ``score``.
        class_names: label -> name; see ``category_names`` for the file's own.
        label_to_category: label -> category id; default: labels *are* the category ids, as in torchvision's
            91-class models. YOLO counts its 80 classes from 0: see ``match_categories``.

    Raises:
        TypeError: ``records`` are not dicts.
        ValueError: a record lacks an entry, is malformed, or belongs to another image than the first.
        LookupError: a category id that ``label_to_category`` does not have.

    >>> found = from_coco([{"image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40]}])
    >>> found.boxes.tolist(), found.labels.tolist()
    ([[10.0, 20.0, 40.0, 60.0]], [3])
    """
    _check_records(records)
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # in float64, so that the way back gives the same float32
    category_to_label = None if label_to_category is None else _inverse(label_to_category)
    labels = [_translate(record["category_id"], category_to_label, "category_id") for record in records]
    scores = [record.get("score", 1.0) for record in records]
    return Detections(torch.from_numpy(boxes), torch.tensor(scores), class_numbers("category_id", labels), class_names)


def to_coco_results(
    detections: Detections, image_id: int, *, label_to_category: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Detections as COCO results: a list that ``json.dump`` and ``COCO.loadRes`` take.

    Args:
        detections: of one image.
        image_id: the image's id in the annotation file.
        label_to_category: as for ``from_coco``.

    Raises:
        LookupError: a label that ``label_to_category`` does not have.

    >>> to_coco_results(Detections([[10, 20, 40, 60]], [0.5], [3]), image_id=7)
    [{'image_id': 7, 'category_id': 3, 'bbox': [10.0, 20.0, 30.0, 40.0], 'score': 0.5}]
    """
    expect_type(detections, Detections, "detections", "detxai.Detections")
    boxes = detections.boxes.double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": _translate(label, label_to_category, "label"),
            "bbox": box,
            "score": score,
        }
        for box, score, label in rows
    ]


def to_coco_annotations(
    detections: Detections,
    image_id: int,
    *,
    first_id: int = 1,
    label_to_category: Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Detections as COCO annotations, such as ground truth to evaluate against; scores are left out.

    Args:
        detections: of one image.
        image_id: the image's id.
        first_id: id of the first annotation; the others follow. At least 1: pycocotools takes 0 for "no match".
        label_to_category: as for ``from_coco``.

    Raises:
        ValueError: ``first_id`` is below 1.
        LookupError: a label that ``label_to_category`` does not have.
    """
    if first_id < 1:
        raise ValueError(f"first_id must be at least 1 (pycocotools takes 0 for no match), got {first_id}")
    results = to_coco_results(detections, image_id, label_to_category=label_to_category)
    return [
        {
            "id": first_id + place,
            "image_id": image_id,
            "category_id": result["category_id"],
            "bbox": result["bbox"],
            "area": result["bbox"][2] * result["bbox"][3],
            "iscrowd": 0,
        }
        for place, result in enumerate(results)
    ]


def _check_records(records: Any) -> None:
    if isinstance(records, (Mapping, str)) or not isinstance(records, Sequence):
        raise TypeError(f"records must be a list of COCO dicts of one image, got {type(records).__name__}")
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise TypeError(f"records[{place}] must be a dict, got {type(record).__name__}")
        missing = {"bbox", "category_id"} - set(record)
        if missing:
            raise ValueError(f"records[{place}] must have {', '.join(sorted(missing))}, got {sorted(record)}")
        if len(record["bbox"]) != 4 or min(record["bbox"][2:]) < 0:
            raise ValueError(f"records[{place}]: bbox must be [x, y, width, height], got {record['bbox']}")
    if len({"score" in record for record in records}) > 1:
        raise ValueError("records must all have a score (results) or none (annotations), got both")
    images = sorted({record["image_id"] for record in records if "image_id" in record})
    if len(images) > 1:
        raise ValueError(f"records must be of one image, got image_id {images}")


def _inverse(label_to_category: Mapping[int, int]) -> dict[int, int]:
    inverse = {category: label for label, category in label_to_category.items()}
    if len(inverse) != len(label_to_category):
        raise ValueError("label_to_category must give every label a different category")
    return inverse


def _translate(number: int, table: Mapping[int, int] | None, name: str) -> int:
    if table is None:
        return number
    if number not in table:
        raise LookupError(f"{name} {number} is not in label_to_category, which has {sorted(table)}")
    return table[number]
