"""What a run will take: its boxes, passes, time and disk, from a few images of it that are measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from detxai.coco.detect import prediction_chunks
from detxai.coco.explain import image_explainer
from detxai.coco.label import boxes_at_operating_point
from detxai.coco.parts.image_detector import DetectedImage
from detxai.coco.parts.misses import Miss
from detxai.coco.parts.packing import packed_rows
from detxai.coco.parts.plan import BoxQuery
from detxai.coco.request import CocoRequest
from detxai.coco.schema import EXPLANATION_COLUMNS, arrow_schema
from detxai.coco.selection import Selection, select
from detxai.data.coco_files import as_predictions
from detxai.data.cocoeval import evaluate
from detxai.data.error_kinds import LabelledBox
from detxai.data.image_files import ImageFile, Pixels
from detxai.runs.tables import write_table

Answer = TypeVar("Answer")
SAMPLED_IMAGES = 8  # evenly over the data set
EXPLAINED_IMAGES, BOXES_OF_EACH = 3, 4  # of these, so that an estimate with a slow method does not take long itself


@dataclass(frozen=True)
class Pieces:
    """Seconds of each step, as measured, with one process.

    Attributes:
        read: to read and decode an image.
        detect: of the pass that makes an image's predictions, with where misses are lost; 0 where they are given.
        method: inside the method, a box.
        around: of explaining, but outside the method, a box.
        pack: to pack and measure a map, a box.
        write: to write a row, a box.
        passes: through the detector, a box.
        bytes: of a row in the dataset.
    """

    read: float
    detect: float
    method: float
    around: float
    pack: float
    write: float
    passes: float
    bytes: float


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        n_images: of the data set.
        n_boxes: to explain; exact where the predictions are given.
        exact: whether it is.
        n_sampled: images that were measured; ``n_explained`` boxes of them were explained.
        pieces: what was measured; None where no sampled image has a box to explain.
        workers: processes that share the work.
    """

    n_images: int
    n_boxes: int
    n_images_with_boxes: int
    exact: bool
    n_sampled: int
    n_explained: int
    pieces: Pieces | None
    workers: int = 1

    @property
    def passes(self) -> int:
        """Through the detector, in all."""
        detecting = self.n_images if self.pieces is not None and self.pieces.detect else 0
        return detecting + round(self.n_boxes * (0 if self.pieces is None else self.pieces.passes))

    @property
    def seconds(self) -> float:
        """Until the dataset is there."""
        one = self.pieces
        if one is None:
            return 0.0
        detecting = self.n_images * (one.read + one.detect) if one.detect else 0.0
        explaining = self.n_boxes * (one.method + one.around + one.pack + one.write)
        return (detecting + explaining + self.n_images_with_boxes * one.read) / self.workers

    @property
    def bytes(self) -> int:
        """Of the dataset on disk."""
        return 0 if self.pieces is None else round(self.n_boxes * self.pieces.bytes)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passes": self.passes, "seconds": self.seconds, "bytes": self.bytes}


def estimate(request: CocoRequest, workers: int = 1) -> Estimate:
    """Measure a few images, and say what the whole run will take. Nothing is written into the run's folder.

    Args:
        request: of the run.
        workers: processes that will share the work.

    Raises:
        ValueError: the request cannot be answered, or none of the sampled images can be read.
    """
    request.check()
    files = request.files
    sample = files[:: max(1, len(files) // SAMPLED_IMAGES)][:SAMPLED_IMAGES]
    images, read = _read(sample)
    detected, detect_seconds = _detected(request, images)
    chosen, scale = _chosen(request, images, detected)
    n_boxes, n_images = _whole_counts(request.selection, chosen, scale)
    pieces, n_explained = _measured(request, chosen, detected, files, read, detect_seconds)
    return Estimate(len(files), n_boxes, n_images, scale == 1, len(images), n_explained, pieces, workers)


def _read(sample: Sequence[ImageFile]) -> tuple[dict[int, tuple[ImageFile, Pixels]], float]:
    images, seconds, last = {}, 0.0, "there are none"
    for file in sample:
        try:
            image, took = _timed(file.read)
        except (OSError, ValueError) as error:  # the run will record it as a failure
            last = str(error)
            continue
        images[file.image_id], seconds = (file, image), seconds + took
    if not images:
        raise ValueError(f"images: none of {len(sample)} sampled images can be read; the last error: {last}")
    return images, seconds / len(images)


def _detected(
    request: CocoRequest, images: dict[int, tuple[ImageFile, Pixels]]
) -> tuple[dict[int, DetectedImage], float]:
    if request.predictions is not None:
        return {}, 0.0
    chunks = prediction_chunks(request)
    detect = chunks.image_detector.detect
    first = next(iter(images.values()))
    detect(*first, chunks.annotations_of(first[0]))  # what a first call sets up is no part of it
    seconds, detected = 0.0, {}
    for number, (file, image) in images.items():
        detected[number], took = _timed(detect, file, image, chunks.annotations_of(file))
        seconds += took
    return detected, seconds / len(images)


def _chosen(
    request: CocoRequest, images: dict[int, Any], detected: dict[int, DetectedImage]
) -> tuple[list[LabelledBox], float]:
    """The boxes to explain, of the sampled images or of all, and how many images one of those stands for."""
    predictions, ids, scale = request.predictions, None, 1.0
    if predictions is None:
        results = [dict(record) for one in detected.values() for record in one.results]
        predictions, ids = as_predictions(results, request.annotations), list(images)
        scale = len(request.files) / len(images)
    evaluation = evaluate(request.annotations, predictions, image_ids=ids)
    iou, point = request.options.iou, request.operating_point
    boxes = boxes_at_operating_point(request.annotations, predictions, evaluation, iou, point)
    known = set(request.label_to_category.values())
    of_all = request.selection if scale == 1 else replace(request.selection, worst=None, max_images=None)
    wanted = [box for box in select(boxes, of_all) if box.category_id in known]
    return [box for box in wanted if ids is None or box.image_id in images], scale


def _whole_counts(selection: Selection, chosen: Sequence[LabelledBox], scale: float) -> tuple[int, int]:
    """Boxes, and images that have any, of the whole data set."""
    n_boxes, n_images = len(chosen) * scale, len({box.image_id for box in chosen}) * scale
    if selection.max_images is not None and n_images > selection.max_images:
        n_boxes, n_images = n_boxes * selection.max_images / n_images, selection.max_images
    if selection.worst is not None and n_boxes > selection.worst:
        n_boxes, n_images = selection.worst, min(n_images, selection.worst)
    return round(n_boxes), round(n_images)


def _measured(
    request: CocoRequest,
    chosen: Sequence[LabelledBox],
    detected: dict[int, DetectedImage],
    files: Sequence[ImageFile],
    read: float,
    detect: float,
) -> tuple[Pieces | None, int]:
    misses = {number: Miss(**entries) for one in detected.values() for number, entries in one.misses.items()}
    explainer = image_explainer(request, misses or None)
    by_id = {file.image_id: file for file in files}
    stride = 1 if request.options.map_stride == "layer" else request.options.map_stride
    spent = {"explain": 0.0, "method": 0.0, "pack": 0.0}
    rows: list[dict[str, Any]] = []
    passes = 0
    for number in list(dict.fromkeys(box.image_id for box in chosen))[:EXPLAINED_IMAGES]:
        queries = [BoxQuery(n, box) for n, box in enumerate(b for b in chosen if b.image_id == number)][:BOXES_OF_EACH]
        image = by_id[number].read()
        if not rows:
            explainer.explain(by_id[number], image, queries[:1])  # what a first call sets up is no part of it
        result, took = _timed(explainer.explain, by_id[number], image, queries)
        if not result.rows:
            continue
        packed, packing = _timed(packed_rows, result, stride)
        spent = {"explain": spent["explain"] + took, "method": spent["method"] + result.rows[0]["seconds"],
                 "pack": spent["pack"] + packing}  # fmt: skip
        passes += result.rows[0]["forward_passes"]
        rows += packed
    if not rows:
        return None, 0
    n = len(rows)
    size, write = _written(rows)
    around = max(0.0, spent["explain"] - spent["method"])
    return Pieces(
        read, detect, spent["method"] / n, around / n, spent["pack"] / n, write / n, passes / n, size / n
    ), n  # fmt: skip


def _written(rows: Sequence[dict[str, Any]]) -> tuple[int, float]:
    """Bytes of these rows as a part of the dataset, and the seconds that writing them takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.parquet"
        write_table(path, rows, arrow_schema(EXPLANATION_COLUMNS))  # what a first call sets up is no part of it
        _, seconds = _timed(write_table, path, rows, arrow_schema(EXPLANATION_COLUMNS))
        return path.stat().st_size, seconds


def _timed(call: Callable[..., Answer], *given: Any) -> tuple[Answer, float]:
    start = time.perf_counter()
    answer = call(*given)
    return answer, time.perf_counter() - start
