"""Predictions made by the detector itself, chunk by chunk, so that a stopped run goes on; and what it lost then."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from detxai.adapters.detector import Detector
from detxai.coco.asking import Pixels
from detxai.coco.folder import CocoFolder
from detxai.coco.misses import Miss, look_for
from detxai.coco.rows import Row, UnreadableImageError, image_failure, pixels_sha256
from detxai.data.error_kinds import xyxy
from detxai.data.image_files import ImageFile, decoded
from detxai.detections import Detections
from detxai.formats import to_coco_results
from detxai.runs.failures import AllFailedError, FailureGuard, expect_item_failure, let_go
from detxai.runs.interrupting import raise_if_interrupted

CHUNK = 16  # images to a file


@dataclass(frozen=True)
class Detecting:
    """What a pass over all images needs.

    Attributes:
        detector: asked once an image.
        label_to_category: labels without a category are never counted.
        score_threshold: below which boxes are dropped.
        operating_point: score from which a detection finds an annotation.
        folder: of the run.
        workers: see ``detxai.data.image_files.decoded``.
        fail_fast: raise what fails.
        annotations: a ``COCO``, to say of each annotation where it is lost if it is: the pass that finds the others
            knows; None: nobody wants to know.
        iou: from which a box covers an annotation.
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

    def chunks(self, files: Sequence[ImageFile], first: int = 0) -> Iterator[int]:
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
                    self._make(number, parts[number], guard)
                    if guard.n_initial == len(files):
                        raise AllFailedError(f"all {len(files)} images failed; the last: {self._last_reason(number)}")
                except AllFailedError:
                    self._remove(made)
                    raise
            elif kept["images"]:
                guard.succeeded()
            yield len(parts[number])

    def forget_failed(self) -> None:
        """Let every chunk in which an image failed be made anew."""
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
            raise ValueError(f"out: {self.chunk(number)} is gone or damaged; give the same command again")
        return content

    def _make(self, number: int, files: Sequence[ImageFile], guard: FailureGuard) -> None:
        content, failures = self._detect(files, guard)
        self.folder.write_failures(f"detecting-{number:06d}", failures)
        self.folder.write_json(self.chunk(number), content)  # last: a chunk that is there is complete

    def _last_reason(self, number: int) -> str:
        return str(self.folder.failures(f"detecting-{number:06d}")[-1]["reason"])

    def _remove(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.chunk(number).unlink(missing_ok=True)
            self.folder.write_failures(f"detecting-{number:06d}", [])

    def _detect(self, files: Sequence[ImageFile], guard: FailureGuard) -> tuple[dict[str, Any], list[Row]]:
        results: list[dict[str, Any]] = []
        misses: dict[int, Any] = {}
        images: dict[str, str] = {}
        failures: list[Row] = []
        for file, image in decoded(files, self.workers):
            raise_if_interrupted()
            try:
                if isinstance(image, str):
                    raise UnreadableImageError(image)
                detections, lost = self._look(file, image)
            except Exception as error:
                expect_item_failure(error)
                if self.fail_fast:
                    raise
                failures.append(image_failure(file, "detecting", error, 0))
                let_go(error)
                guard.failed(f"{file.file_name}: {failures[-1]['reason']}")
                continue
            guard.succeeded()
            misses |= lost
            images[file.file_name] = pixels_sha256(image)
            known = [place for place, label in enumerate(detections.labels.tolist()) if label in self.label_to_category]
            results += to_coco_results(detections[known], file.image_id, label_to_category=self.label_to_category)
        return {"results": results, "misses": misses, "images": images}, failures

    def _look(self, file: ImageFile, image: Pixels) -> tuple[Detections, dict[int, Any]]:
        """What is found in an image, and for each annotation of it, where it is lost if it is."""
        labels = {category: label for label, category in self.label_to_category.items()}
        records = [] if self.annotations is None else self.annotations.imgToAnns.get(file.image_id, [])
        asked = [one for one in records if one["category_id"] in labels and not one["iscrowd"]]
        if not asked:
            return self.detector.detect(image, self.score_threshold).to("cpu"), {}
        with self.detector.borrowed(), torch.no_grad():
            shown = self.detector.shared_pass(image)
            found = self.detector.detections(shown, self.score_threshold).to("cpu")
            candidates = self.detector.candidates(shown)
        counted = found[found.scores >= self.operating_point]
        return found, {
            one["id"]: asdict(
                look_for(
                    candidates, counted, xyxy(one["bbox"]), labels[one["category_id"]],
                    iou=self.iou, threshold=self.operating_point,
                )
            )
            for one in asked
        }  # fmt: skip
