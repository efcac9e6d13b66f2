"""What became of each prediction and annotation: found, or lost in one of TIDE's ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from detxai.data.cocoeval import Matching

Kind = Literal[
    "true_positive",
    "localisation",
    "classification",
    "both",
    "duplicate",
    "background",
    "missed",
    "ignored",
    "unannotated",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
FALSE_POSITIVES: tuple[Kind, ...] = ("localisation", "classification", "both", "duplicate", "background")
UNANNOTATED: Literal["unannotated"] = "unannotated"  # a kind, and the entry of a data set that nobody annotated
ERRORS: tuple[Kind, ...] = (*FALSE_POSITIVES, "missed")
BACKGROUND_IOU = 0.1  # TIDE's t_b: a box that overlaps nothing by more lies on the background

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelledBox:
    """One prediction, or one annotation that no prediction found, and what became of it: a row of ``boxes.parquet``.

    Attributes:
        image_id: the image, as in the annotation file.
        category_id: the class predicted, or the missed annotation's.
        box: xyxy, pixels of the original image.
        kind: ``true_positive``, one of TIDE's five kinds of false positive, ``missed``, ``ignored`` (on a crowd), or
            ``unannotated``: nobody annotated the images, so it is neither right nor wrong.
        score: the prediction's; None for a missed annotation.
        prediction_id: place in the predictions file, counted from 1; None for a missed annotation.
        annotation_id: the annotation found or missed; for a false positive the one that decides its kind;
            None for one on the background.
        annotation_box: that annotation's box, xyxy.
        annotation_category: the name of that annotation's class.
        iou: of the two boxes; for a false positive on the background, the largest with any annotation.
        area: square pixels: an annotation's own ``area``, a prediction's box.
        covered_by: for a missed annotation, the misplaced or misclassified prediction on it: TIDE then counts
            that error and not the miss.
        found_below: for a missed annotation, the score of the prediction that finds it below the operating point;
            None where none does.
        ap_loss: how much the mean AP would rise were this mistake alone not there: ``detxai.data.ap_loss``.
        file_name: of the image, as in the annotation file.
        category: the name of ``category_id``.
    """

    image_id: int
    category_id: int
    box: Box
    kind: Kind
    score: float | None = None
    prediction_id: int | None = None
    annotation_id: int | None = None
    annotation_box: Box | None = None
    annotation_category: str | None = None
    iou: float | None = None
    area: float = 0.0
    covered_by: int | None = None
    found_below: float | None = None
    ap_loss: float | None = None
    file_name: str = ""
    category: str = ""

    def as_row(self) -> dict[str, Any]:
        """Column -> value, as Parquet keeps it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> LabelledBox:
        """From a row of ``boxes.parquet``, or of the explanations, which have further columns."""
        values: dict[str, Any] = {field.name: row[field.name] for field in fields(cls)}
        for name in ("box", "annotation_box"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


def labelled_boxes(annotations: Any, predictions: Any, matched: Matching) -> list[LabelledBox]:
    """Every prediction that COCOeval counts, and every annotation without a match, image by image.

    Predictions beyond COCOeval's ``maxDets`` are left out, as COCOeval leaves them out.

    Source: Bolya et al., 2020, TIDE (ECCV), section 2.2, tested in the order of its reference implementation:
    localisation (same class, ``0.1 <= IoU <= iou``), classification (another class, ``IoU >= iou``), duplicate (same
    class, already found), background (no IoU above 0.1), both. Which predictions are false positives is COCOeval's
    answer.
    """
    boxes: list[LabelledBox] = []
    for image_id in sorted(annotations.imgs):
        image = _ImageBoxes.from_coco(image_id, annotations, predictions, matched)
        predicted = [image.prediction(place) for place in range(len(image.predictions))]
        boxes += predicted
        boxes += image.missed(predicted)
    return boxes


@dataclass(frozen=True)
class _ImageBoxes:
    """The boxes of one image: predictions that count, and annotations that are no crowd and not ignored."""

    image_id: int
    predictions: Sequence[dict[str, Any]]
    annotations: Sequence[dict[str, Any]]
    ious: npt.NDArray[np.float64]  # (predictions, annotations)
    matched: Matching
    coco: Any  # the ``COCO`` of all annotations

    @classmethod
    def from_coco(cls, image_id: int, annotations: Any, predictions: Any, matched: Matching) -> _ImageBoxes:
        counted = [p for p in predictions.imgToAnns.get(image_id, []) if p["id"] in matched.predictions]
        truths = [
            a
            for a in annotations.imgToAnns.get(image_id, [])
            if a["id"] in matched.annotations and a["id"] not in matched.ignored_annotations
        ]
        return cls(image_id, counted, truths, box_ious(counted, truths), matched, annotations)

    def prediction(self, place: int) -> LabelledBox:
        """What became of one prediction."""
        number = self.predictions[place]["id"]
        found = self.matched.predictions[number]
        if found:
            truth = self.coco.anns[found]
            kind: Kind = "ignored" if number in self.matched.ignored_predictions else "true_positive"
            crowd = bool(truth.get("iscrowd", 0))
            return self._labelled(
                place, kind, truth, float(box_ious([self.predictions[place]], [truth], crowd=crowd)[0, 0])
            )
        if number in self.matched.ignored_predictions:
            return self._labelled(place, "ignored", None, None)
        if self.coco.dataset.get(UNANNOTATED, False):
            return self._labelled(place, UNANNOTATED, None, None)
        kind, truth_place = self._error(place)
        largest = float(self.ious[place].max()) if self.annotations else 0.0
        if truth_place is None:
            return self._labelled(place, kind, None, largest)
        return self._labelled(place, kind, self.annotations[truth_place], float(self.ious[place, truth_place]))

    def _error(self, place: int) -> tuple[Kind, int | None]:
        """The kind of a false positive, and which annotation makes it so."""
        if not self.annotations:
            return "background", None
        iou, row = self.matched.iou, self.ious[place]
        same = np.array([a["category_id"] == self.predictions[place]["category_id"] for a in self.annotations])
        taken = np.array([bool(self.matched.annotations[a["id"]]) for a in self.annotations])
        own, other, own_taken = (np.where(mask, row, 0.0) for mask in (same, ~same, same & taken))
        if BACKGROUND_IOU <= own.max() <= iou:
            return "localisation", int(own.argmax())
        if other.max() >= iou:
            return "classification", int(other.argmax())
        if own_taken.max() >= iou:
            return "duplicate", int(own_taken.argmax())
        if row.max() <= BACKGROUND_IOU:
            return "background", None
        return "both", int(row.argmax())

    def _labelled(self, place: int, kind: Kind, truth: dict[str, Any] | None, iou: float | None) -> LabelledBox:
        prediction = self.predictions[place]
        return LabelledBox(
            self.image_id,
            prediction["category_id"],
            xyxy(prediction["bbox"]),
            kind,
            score=float(prediction["score"]),
            prediction_id=prediction["id"],
            annotation_id=None if truth is None else truth["id"],
            annotation_box=None if truth is None else xyxy(truth["bbox"]),
            annotation_category=None if truth is None else self._category(truth),
            iou=iou,
            area=float(prediction["area"]),
            file_name=self.coco.imgs[self.image_id]["file_name"],
            category=self._category(prediction),
        )

    def missed(self, predicted: Sequence[LabelledBox]) -> Iterator[LabelledBox]:
        """The annotations of this image that no prediction found."""
        covered: dict[int, int] = {}
        for box in predicted:  # in the order of the file; TIDE asks only whether there is one
            if box.kind in ("localisation", "classification"):
                covered.setdefault(box.annotation_id or 0, box.prediction_id or 0)
        for truth in self.annotations:
            if not self.matched.annotations[truth["id"]]:
                yield LabelledBox(
                    self.image_id,
                    truth["category_id"],
                    xyxy(truth["bbox"]),
                    "missed",
                    annotation_id=truth["id"],
                    annotation_box=xyxy(truth["bbox"]),
                    annotation_category=self._category(truth),
                    area=float(truth["area"]),
                    covered_by=covered.get(truth["id"]),
                    file_name=self.coco.imgs[self.image_id]["file_name"],
                    category=self._category(truth),
                )

    def _category(self, record: dict[str, Any]) -> str:
        return str(self.coco.cats[record["category_id"]]["name"])


def box_ious(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], *, crowd: bool = False
) -> npt.NDArray[np.float64]:
    """(len(first), len(second)) IoUs of COCO records, by pycocotools' own arithmetic.

    With ``crowd``, the intersection's share of the first box, as COCOeval measures against a crowd.
    """
    from pycocotools import mask

    if not first or not second:
        return np.zeros((len(first), len(second)))
    boxes = [np.array([record["bbox"] for record in records], dtype=np.float64) for records in (first, second)]
    return np.asarray(mask.iou(*boxes, [int(crowd)] * len(second)), dtype=np.float64)


def xyxy(bbox: Sequence[float]) -> Box:
    """COCO's x, y, width, height as x1, y1, x2, y2.

    >>> xyxy([10, 20, 30, 40])
    (10.0, 20.0, 40.0, 60.0)
    """
    x, y, width, height = (float(side) for side in bbox)
    return x, y, x + width, y + height
