"""First stage: predictions made by the detector itself, chunk by chunk, and where it lost what it misses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detxai.adapters.detector import Detector
from detxai.coco.folder import CocoFolder, UnreadableImageError, failure_row
from detxai.coco.parts.misses import Miss, find_lost_stage
from detxai.coco.request import CocoRequest
from detxai.data.coco_files import as_predictions
from detxai.data.error_kinds import xyxy
from detxai.data.image_files import ImageFile, Pixels, decoded
from detxai.detections import Detections
from detxai.formats import to_coco_results
from detxai.images import pixels_sha256
from detxai.runs.failures import AllFailedError, FailureGuard, expect_item_failure, release_tensors
from detxai.runs.interrupting import raise_if_interrupted

CHUNK = 16  # images to a file


def detect(request: CocoRequest) -> Any:
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
        for n_images in chunks.make(request.files, first):
            bar.update(n_images)
    results = chunks.results(len(request.files))
    if not folder.has_whole_json(folder.predictions):
        folder.write_json(folder.predictions, results)
    return as_predictions(results, request.annotations)


def prediction_chunks(request: CocoRequest) -> PredictionChunks:
    """Where the run keeps the predictions that it makes."""
    return PredictionChunks(
        request.detector,
        request.label_to_category,
        request.score_threshold,
        request.folder,
        request.workers,
        request.options.fail_fast,
        request.annotations if request.wants_misses else None,
        request.options.iou,
        request.operating_point,
    )


@dataclass(frozen=True)
class PredictionChunks:
    """The detector's predictions, made and kept in chunks of 16 images.

    Attributes:
        detector: run once an image.
        label_to_category: labels without a category are never counted.
        score_threshold: below which boxes are dropped.
        operating_point: score from which a detection finds an annotation.
        folder: of the run.
        workers: see ``detxai.data.image_files.decoded``.
        fail_fast: raise what fails.
        annotations: a ``COCO``, to say of each missed annotation at which stage it was lost: the pass that makes the
            predictions knows; None: that is not wanted.
        iou: IoU threshold for a match.
    """

    detector: Detector
    label_to_category: Mapping[int, int]
    score_threshold: float
    folder: CocoFolder
    workers: int = 0
    fail_fast: bool = False
    annotations: Any | None = None
    iou: float = 0.5
    operating_point: float = 0.25

    def make(self, files: Sequence[ImageFile], first: int = 0) -> Iterator[int]:
        """Make every chunk that is missing, beginning with ``first``; yields how many images each has.

        Shards that share a disk begin at different chunks, and find what the others made; on disks of their own each
        makes them all.

        Raises:
            AllFailedError: the first images all failed, or all there are; then no chunk of them is kept.
        """
        parts = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
        guard, made = FailureGuard(), []
        for step in range(len(parts)):
            number = (first + step) % len(parts)
            kept = self._read(number)
            if kept is None:
                made.append(number)
                try:
                    self._make_chunk(number, parts[number], guard)
                    if guard.n_initial == len(files):
                        raise AllFailedError(f"all {len(files)} images failed; the last: {self._last_reason(number)}")
                except AllFailedError:
                    self._remove(made)
                    raise
            elif kept["images"]:
                guard.succeeded()
            yield len(parts[number])

    def delete_failed(self) -> None:
        """Delete every chunk in which an image failed, so that it is made anew."""
        for path in self.folder.parts.glob("failures-detecting-*.parquet"):
            self.chunk(int(path.stem.rpartition("-")[2])).unlink(missing_ok=True)

    def results(self, n_images: int) -> list[dict[str, Any]]:
        """All chunks, in the order of the images: COCO results."""
        found: list[dict[str, Any]] = []
        for number in range(-(-n_images // CHUNK)):
            found += self._expect(number)["results"]
        return found

    def misses(self, n_images: int) -> dict[int, Miss]:
        """Annotation id -> where it is lost if it is, of all chunks."""
        found: dict[int, Miss] = {}
        for number in range(-(-n_images // CHUNK)):
            for annotation, entries in self._expect(number)["misses"].items():
                found[int(annotation)] = Miss(**entries)
        return found

    def chunk(self, number: int) -> Path:
        return self.folder.parts / f"detected-{number:06d}.json"

    def _read(self, number: int) -> dict[str, Any] | None:
        """A chunk; None where it is not there, or damaged."""
        try:
            content = json.loads(self.chunk(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(content, dict) and {"results", "misses", "images"} <= set(content)
        return content if whole else None

    def _expect(self, number: int) -> dict[str, Any]:
        content = self._read(number)
        if content is None:
            raise ValueError(f"out: {self.chunk(number)} is missing or damaged; repeat the same command")
        return content

    def _make_chunk(self, number: int, files: Sequence[ImageFile], guard: FailureGuard) -> None:
        content, failures = self._detect(files, guard)
        self.folder.write_failures(f"detecting-{number:06d}", failures)
        self.folder.write_json(self.chunk(number), content)  # last: a chunk that is there is complete

    def _last_reason(self, number: int) -> str:
        return str(self.folder.failures(f"detecting-{number:06d}")[-1]["reason"])

    def _remove(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.chunk(number).unlink(missing_ok=True)
            self.folder.write_failures(f"detecting-{number:06d}", [])

    def _detect(self, files: Sequence[ImageFile], guard: FailureGuard) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        results: list[dict[str, Any]] = []
        misses: dict[int, Any] = {}
        images: dict[str, str] = {}
        failures: list[dict[str, Any]] = []
        for file, image in decoded(files, self.workers):
            raise_if_interrupted()
            try:
                if isinstance(image, str):
                    raise UnreadableImageError(image)
                detections, lost = self._detect_in(file, image)
            except Exception as error:
                expect_item_failure(error)
                if self.fail_fast:
                    raise
                failures.append(failure_row(file, "detecting", error, 0))
                release_tensors(error)
                guard.failed(f"{file.file_name}: {failures[-1]['reason']}")
                continue
            guard.succeeded()
            misses |= lost
            images[file.file_name] = pixels_sha256(image)
            known = [place for place, label in enumerate(detections.labels.tolist()) if label in self.label_to_category]
            results += to_coco_results(detections[known], file.image_id, label_to_category=self.label_to_category)
        return {"results": results, "misses": misses, "images": images}, failures

    def _detect_in(self, file: ImageFile, image: Pixels) -> tuple[Detections, dict[int, Any]]:
        """What is found in an image, and for each annotation of it, where it is lost if it is."""
        labels = {category: label for label, category in self.label_to_category.items()}
        records = [] if self.annotations is None else self.annotations.imgToAnns.get(file.image_id, [])
        annotated = [record for record in records if record["category_id"] in labels and not record["iscrowd"]]
        if not annotated:
            return self.detector.detect(image, self.score_threshold).to("cpu"), {}
        found, candidates = self.detector.detections_and_candidates(image, self.score_threshold)
        found = found.to("cpu")
        counted = found[found.scores >= self.operating_point]
        return found, {
            one["id"]: asdict(
                find_lost_stage(
                    candidates, counted, xyxy(one["bbox"]), labels[one["category_id"]],
                    iou=self.iou, threshold=self.operating_point,
                )
            )
            for one in annotated
        }  # fmt: skip
