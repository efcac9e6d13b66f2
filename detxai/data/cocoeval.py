"""Which prediction found which annotation: COCOeval's own answer, read from its ``evalImgs``."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt

SUMMARY = (
    "AP", "AP50", "AP75", "AP small", "AP medium", "AP large",
    "AR 1", "AR 10", "AR 100", "AR small", "AR medium", "AR large",
)  # fmt: skip


@dataclass(frozen=True)
class Matching:
    """COCOeval's matching at one IoU, over boxes of all areas.

    Attributes:
        iou: the IoU from which a prediction finds an annotation.
        predictions: prediction id -> the annotation it found, 0 for none; only those that COCOeval counts: for each
            image and category the best ``maxDets``.
        annotations: annotation id -> the prediction that found it, 0 for none.
        ignored_predictions: those that count neither way: they found a crowd or an ignored annotation.
        ignored_annotations: crowds and those marked as ignored.
    """

    iou: float
    predictions: Mapping[int, int]
    annotations: Mapping[int, int]
    ignored_predictions: frozenset[int]
    ignored_annotations: frozenset[int]

    def from_score(self, predictions: Any, score: float) -> Matching:
        """What would have been matched had the detector reported nothing below ``score``.

        COCOeval lets predictions of higher score choose first, so those that stay keep their matches; an annotation
        that only a weaker one found is found by none.

        Args:
            predictions: the ``COCO`` that was matched.
            score: from which predictions count.
        """
        kept = {number for number in self.predictions if predictions.anns[number]["score"] >= score}
        return Matching(
            self.iou,
            {number: found for number, found in self.predictions.items() if number in kept},
            {number: finder if finder in kept else 0 for number, finder in self.annotations.items()},
            self.ignored_predictions & kept,
            self.ignored_annotations,
        )


def evaluate(
    annotations: Any, predictions: Any, like: Any | None = None, image_ids: Sequence[int] | None = None
) -> Any:
    """A finished ``pycocotools.cocoeval.COCOeval`` of boxes, without what it prints.

    Args:
        annotations: a ``COCO``.
        predictions: a ``COCO``, as ``loadRes`` gives it.
        like: ``Params`` of another evaluation to take over: images, categories, IoUs, areas, detections per image.
        image_ids: the images that count; None: all.
    """
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):
        evaluation = COCOeval(annotations, predictions, "bbox")
        for name in ("imgIds", "catIds", "iouThrs", "recThrs", "maxDets", "areaRng", "areaRngLbl"):
            if like is not None and hasattr(like, name):
                setattr(evaluation.params, name, copy.deepcopy(getattr(like, name)))
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def finished(evaluation: Any) -> Any:
    """The evaluation itself where its matches can be read; else pycocotools' own of the same data and settings.

    faster-coco-eval keeps its matches in C++, out of reach.

    Raises:
        TypeError: it is no COCOeval.
        ValueError: it is not of boxes, or does not tell classes apart.
    """
    for name in ("cocoGt", "cocoDt", "params"):
        if getattr(evaluation, name, None) is None:
            raise TypeError(f"evaluation must be a COCOeval with cocoGt, cocoDt and params; {name} is missing")
    if getattr(evaluation.params, "iouType", "bbox") != "bbox" or not getattr(evaluation.params, "useCats", 1):
        raise ValueError("evaluation must be of boxes (iouType='bbox') with classes told apart (useCats=1)")
    matches = getattr(evaluation, "evalImgs", None)
    if isinstance(matches, list) and matches and isinstance(getattr(evaluation, "eval", None), dict):
        if "precision" not in evaluation.eval:
            with redirect_stdout(StringIO()):
                evaluation.accumulate()
        return evaluation
    return evaluate(evaluation.cocoGt, evaluation.cocoDt, evaluation.params)


def matching(evaluation: Any, iou: float = 0.5) -> Matching:
    """What a finished COCOeval matched at one of its IoUs.

    Raises:
        ValueError: it was not evaluated at this IoU, or not over boxes of all areas.
    """
    place = iou_place(evaluation, iou)
    predictions: dict[int, int] = {}
    annotations: dict[int, int] = {}
    ignored_predictions: set[int] = set()
    ignored_annotations: set[int] = set()
    for result in _image_results(evaluation):
        found = np.asarray(result["dtMatches"], dtype=np.int64)[place].tolist()
        predictions.update(zip(result["dtIds"], found, strict=True))
        ignored = np.asarray(result["dtIgnore"])[place].tolist()
        ignored_predictions.update(number for number, out in zip(result["dtIds"], ignored, strict=True) if out)
        finder = np.asarray(result["gtMatches"], dtype=np.int64)[place].tolist()
        annotations.update(zip(result["gtIds"], finder, strict=True))
        ignored_annotations.update(number for number, out in zip(result["gtIds"], result["gtIgnore"]) if out)
    return Matching(
        float(iou), predictions, annotations, frozenset(ignored_predictions), frozenset(ignored_annotations)
    )


def _image_results(evaluation: Any) -> Iterator[Mapping[str, Any]]:
    """COCOeval's result for each image and category, over boxes of all areas, at its largest ``maxDets``."""
    area = list(evaluation.params.areaRng[_all_areas(evaluation)])
    return (result for result in evaluation.evalImgs if result is not None and list(result["aRng"]) == area)


def _all_areas(evaluation: Any) -> int:
    labels = list(getattr(evaluation.params, "areaRngLbl", []))
    if "all" in labels:
        return labels.index("all")
    raise ValueError(f"evaluation must include boxes of all areas, got areaRngLbl {labels}")


def iou_place(evaluation: Any, iou: float) -> int:
    """Where ``iou`` stands among the IoUs of an evaluation."""
    return _place(np.asarray(evaluation.params.iouThrs, dtype=float), iou)


def expect_iou(evaluation: Any | None, iou: float) -> None:
    """Raise ``ValueError`` where ``iou`` is none of the evaluation's; of COCO's ten where it is still to be made."""
    from pycocotools.cocoeval import Params

    _place(np.asarray((Params("bbox") if evaluation is None else evaluation.params).iouThrs, dtype=float), iou)


def _place(thresholds: npt.NDArray[np.float64], iou: float) -> int:
    place = int(np.abs(thresholds - iou).argmin())
    if not abs(thresholds[place] - iou) <= 1e-6:  # also where it is NaN
        raise ValueError(f"iou must be one of the evaluation's {thresholds.round(4).tolist()}, got {iou}")
    return place


def summary(evaluation: Any) -> dict[str, float]:
    """COCO's twelve numbers, as ``COCOeval.summarize`` computes them; NaN where there is nothing to count.

    A finished evaluation with other settings than COCO's ten IoUs, three ``maxDets`` and four areas gives ``AP`` only.
    """
    precision = evaluation.eval["precision"]
    usual = precision.shape[0] == 10 and precision.shape[3:] == (4, 3)
    if not usual:
        return {"AP": _mean(precision[:, :, :, _all_areas(evaluation), -1])}
    with redirect_stdout(StringIO()):
        evaluation.summarize()
    return {name: float(v) if v > -1 else float("nan") for name, v in zip(SUMMARY, evaluation.stats, strict=True)}


def class_ap(evaluation: Any, iou: float | None = None) -> dict[int, float]:
    """Category id -> AP over all areas, averaged over the IoUs or at one; NaN for a category without annotations."""
    precision = evaluation.eval["precision"][:, :, :, _all_areas(evaluation), -1]
    rows = slice(None) if iou is None else slice(iou_place(evaluation, iou), iou_place(evaluation, iou) + 1)
    return {int(category): _mean(precision[rows, :, place]) for place, category in enumerate(evaluation.params.catIds)}


def _mean(precision: npt.NDArray[np.float64]) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else float("nan")
