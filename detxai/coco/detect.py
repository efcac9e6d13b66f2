"""First stage: predictions made by the detector itself, chunk by chunk, and where it lost what it misses."""

from __future__ import annotations

from typing import Any

from detxai.coco.parts.engines import Engine
from detxai.coco.parts.image_detector import ImageDetector
from detxai.coco.parts.prediction_chunks import CHUNK, PredictionChunks
from detxai.coco.request import CocoRequest
from detxai.data.coco_files import as_predictions


def detect(request: CocoRequest, engine: Engine) -> Any:
    """The predictions of the run, as a ``COCO``.

    Where they are not given, the detector makes them: chunks that are missing are made, and all together are written to
    ``predictions.json``.

    Raises:
        AllFailedError: the first images all failed.
    """
    if request.predictions is not None:
        return request.predictions
    options, folder, chunks = request.options, request.folder, prediction_chunks(request)
    if options.retry_failed and folder.failures("detecting"):
        folder.predictions.unlink(missing_ok=True)
        chunks.delete_failed()
    first = options.shard.index * len(request.files) // (CHUNK * options.shard.of)
    with options.bar(len(request.files), 0, "image", "detecting") as bar:
        for n_images in engine.make_chunks(chunks, request.files, first):
            bar.update(n_images)
    results = chunks.results(len(request.files))
    if not folder.has_whole_json(folder.predictions):
        folder.write_json(folder.predictions, results)
    return as_predictions(results, request.annotations)


def prediction_chunks(request: CocoRequest) -> PredictionChunks:
    """Where the run keeps the predictions that it makes."""
    image_detector = ImageDetector(
        request.detector,
        request.label_to_category,
        request.score_threshold,
        request.operating_point,
        request.options.iou,
        request.options.fail_fast,
    )
    annotations = request.annotations if request.wants_misses else None
    return PredictionChunks(image_detector, request.folder, request.workers, annotations)
