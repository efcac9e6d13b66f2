"""Detections in the formats that other tools speak, and back. Nothing of theirs is imported to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detxai.detections import Detections
from detxai.images import Image, load_image, to_uint8

Names = Mapping[int, str] | Sequence[str]
Records = Sequence[Mapping[str, Any]]


def from_torchvision(output: Mapping[str, Tensor], class_names: Names = ()) -> Detections:
    """What a torchvision detector returned for one image, as detections.

    Args:
        output: ``boxes`` (N, 4) xyxy in original pixels, ``scores`` (N,) and ``labels`` (N,); other entries, such as
            ``masks``, are ignored. A training target, which has no scores, gets scores of 1.
        class_names: label -> name, or the names of labels 0, 1, 2, ...; torchvision's label 0 is the background.

    Raises:
        TypeError: ``output`` is no such mapping (a detector returns a list of them, one an image).
        ValueError: an entry is missing or wrong.

    >>> from_torchvision({"boxes": torch.tensor([[0.0, 0.0, 4.0, 8.0]]), "labels": torch.tensor([2])}).scores
    tensor([1.])
    """
    _expect(output, Mapping, "output", "torchvision's dict of one image")
    missing = sorted({"boxes", "labels"} - set(output))
    if missing:
        raise ValueError(f"output must have 'boxes' and 'labels', got {sorted(output)}")
    scores = output["scores"] if "scores" in output else torch.ones(len(output["labels"]))
    return Detections(_cpu(output["boxes"]), _cpu(scores), _whole("labels", output["labels"]), class_names)


def to_torchvision(detections: Detections) -> dict[str, Tensor]:
    """Detections as torchvision returns them: ``boxes``, ``scores`` and ``labels``; copies.

    >>> sorted(to_torchvision(Detections([], [], [])))
    ['boxes', 'labels', 'scores']
    """
    _expect(detections, Detections, "detections", "detxai.Detections")
    return {name: getattr(detections, name).clone() for name in ("boxes", "scores", "labels")}


def from_ultralytics(result: Any) -> Detections:
    """An ultralytics ``Results``, which is of one image, as detections; rotated boxes as the upright ones around them.

    Raises:
        TypeError: ``result`` is no ``Results`` (``YOLO.predict`` returns a list of them, one an image).
        ValueError: it has no boxes, as a classifier's has none.
    """
    if not all(hasattr(result, name) for name in ("boxes", "names", "orig_shape")):
        hint = "; pass its entries one by one" if isinstance(result, (list, tuple)) else ""
        raise TypeError(f"result must be an ultralytics Results of one image, got {type(result).__name__}{hint}")
    found = result.boxes if result.boxes is not None else getattr(result, "obb", None)
    if found is None:
        raise ValueError("result must have boxes or rotated boxes, got neither: is it of a classifier?")
    return Detections(_cpu(found.xyxy), _cpu(found.conf), _whole("cls", found.cls), dict(result.names))


def to_ultralytics(detections: Detections, image: Image, *, path: str = "") -> Any:
    """Detections as an ultralytics ``Results``, for its plots and exports.

    Args:
        detections: their labels must all have names, as ``Results`` has no other way to show them; a label without
            one is named by its number.
        image: the image they are of.
        path: the image's file name, for ``Results.path``.

    Raises:
        ImportError: ultralytics is not installed.
    """
    _expect(detections, Detections, "detections", "detxai.Detections")
    pixels = to_uint8(load_image(image))
    try:
        from ultralytics.engine.results import Results
    except ImportError as error:
        raise ImportError("to_ultralytics needs ultralytics: python -m pip install 'detxai[yolo]'") from error
    columns = (detections.boxes, detections.scores[:, None], detections.labels[:, None].float())
    names = {label: str(label) for label in detections.labels.tolist()} | dict(detections.class_names)
    bgr = np.ascontiguousarray(pixels[..., ::-1])  # ultralytics keeps images as OpenCV reads them
    return Results(bgr, path=path, names=names, boxes=torch.cat(columns, dim=1))


def from_coco(
    records: Records, class_names: Names = (), *, label_to_category: Mapping[int, int] | None = None
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
    return Detections(torch.from_numpy(boxes), torch.tensor(scores), _whole("category_id", labels), class_names)


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
    _expect(detections, Detections, "detections", "detxai.Detections")
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


def category_names(categories: Records) -> dict[int, str]:
    """The ``categories`` of a COCO file as category id -> name.

    >>> category_names([{"id": 1, "name": "person", "supercategory": "person"}, {"id": 3, "name": "car"}])
    {1: 'person', 3: 'car'}
    """
    for category in categories:
        if not isinstance(category, Mapping) or not {"id", "name"} <= set(category):
            raise ValueError(f"categories must be dicts with 'id' and 'name', got {category!r}")
    return {int(category["id"]): str(category["name"]) for category in categories}


def match_categories(class_names: Names, categories: Records) -> dict[int, int]:
    """Label -> category id, for ``label_to_category``, by equal names; labels without a category are left out.

    Names are equal that differ in case, spaces and underscores alone: see ``plain_name``.

    Raises:
        ValueError: several labels have the name of a category, or several categories that of a label.

    >>> match_categories(["person", "stop_sign"], [{"id": 1, "name": "Person"}, {"id": 13, "name": "stop sign"}])
    {0: 1, 1: 13}
    """
    by_name: dict[str, list[int]] = {}
    for label, name in Detections([], [], [], class_names).class_names.items():
        by_name.setdefault(plain_name(name), []).append(label)
    matched: dict[int, int] = {}
    for category, name in category_names(categories).items():
        labels = by_name.get(plain_name(name), [])
        if len(labels) > 1:  # torchvision has several "N/A", which no category is called
            raise ValueError(f"class_names: the labels {labels} are all called {name!r}: spell out which is which")
        if labels and labels[0] in matched:
            raise ValueError(f"categories: {matched[labels[0]]} and {category} are both called {name!r}")
        if labels:
            matched[labels[0]] = category
    return dict(sorted(matched.items()))


def plain_name(name: str) -> str:
    """What must be equal for two tools to mean the same class.

    >>> plain_name("Traffic_Light "), plain_name("traffic  light")
    ('traffic light', 'traffic light')
    """
    return " ".join(name.replace("_", " ").casefold().split())


def from_supervision(detections: Any, class_names: Names | None = None) -> Detections:
    """A ``supervision.Detections`` as detections. Without confidences, as for ground truth, scores are 1.

    Args:
        detections: anything with ``xyxy``, ``confidence``, ``class_id`` and ``data`` as supervision has them.
        class_names: label -> name; default: the names in ``data["class_name"]``, if there are any.

    Raises:
        TypeError: ``detections`` is nothing of the kind.
        ValueError: it has no ``class_id``.
    """
    if not all(hasattr(detections, name) for name in ("xyxy", "confidence", "class_id")):
        raise TypeError(f"detections must be a supervision.Detections, got {type(detections).__name__}")
    boxes = np.asarray(detections.xyxy, dtype=np.float32)
    labels, scores = detections.class_id, detections.confidence
    if labels is None and len(boxes):
        raise ValueError("detections must have class_id, got None: without classes there is nothing to ask about")
    labels = _whole("class_id", [] if labels is None else labels)
    if class_names is None:
        named = (getattr(detections, "data", None) or {}).get("class_name", ())
        class_names = dict(zip(labels.tolist(), map(str, named)))
    scores = np.ones(len(boxes), dtype=np.float32) if scores is None else scores
    return Detections(torch.from_numpy(boxes), _cpu(scores), labels, class_names)


def to_supervision(detections: Detections) -> Any:
    """Detections as a ``supervision.Detections``, with the names in ``data["class_name"]``.

    Raises:
        ImportError: supervision is not installed.
    """
    _expect(detections, Detections, "detections", "detxai.Detections")
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs supervision: python -m pip install supervision") from error
    return supervision.Detections(
        xyxy=detections.boxes.cpu().numpy(),
        confidence=detections.scores.cpu().numpy(),
        class_id=detections.labels.cpu().numpy(),
        data={"class_name": np.array([detections.name(i) for i in range(len(detections))], dtype=str)},
    )


def from_sahi(result: Any) -> Detections:
    """What SAHI predicts for one image, sliced or not, as detections.

    Args:
        result: a ``PredictionResult``, such as ``sahi.predict.get_sliced_prediction`` returns, or a list of its
            ``ObjectPrediction``. Of masks and rotated boxes, the upright boxes around them are taken.

    Raises:
        TypeError: it is neither.
    """
    found = getattr(result, "object_prediction_list", result)
    if not isinstance(found, (list, tuple)) or not all(_is_sahi_prediction(one) for one in found):
        raise TypeError(f"result must be a SAHI PredictionResult or ObjectPredictions, got {type(result).__name__}")
    moved = [one.bbox.get_shifted_box() if any(one.bbox.shift_amount) else one.bbox for one in found]
    names = {int(one.category.id): str(one.category.name) for one in found}
    scores = [float(one.score.value) for one in found]
    return Detections([box.to_xyxy() for box in moved], scores, [int(one.category.id) for one in found], names)


def _is_sahi_prediction(one: Any) -> bool:
    return all(hasattr(one, name) for name in ("bbox", "category", "score")) and hasattr(one.bbox, "get_shifted_box")


def _expect(value: object, kind: type, name: str, wanted: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def _cpu(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().cpu()


def _whole(name: str, values: Any) -> Tensor:
    """Class numbers, which some tools keep as floats."""
    tensor = _cpu(values)
    if tensor.is_floating_point() and not bool((tensor == tensor.round()).all()):  # False for NaN too
        raise ValueError(f"{name} must be whole class numbers, got {tensor.tolist()}")
    return tensor.long()


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
        raise ValueError("label_to_category must give every label a category of its own")
    return inverse


def _translate(number: int, table: Mapping[int, int] | None, name: str) -> int:
    if table is None:
        return number
    if number not in table:
        raise LookupError(f"{name} {number} is not in label_to_category, which has {sorted(table)}")
    return table[number]
