"""The predictions that a run makes, kept in chunks of 16 images, each whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detxai.coco.folder import CocoFolder
from detxai.coco.parts.image_detector import Annotation, DetectedImage, ImageDetector
from detxai.coco.parts.misses import Miss
from detxai.data.image_files import ImageFile, decoded
from detxai.runs.failures import AllFailedError, FailureGuard
from detxai.runs.interrupting import raise_if_interrupted

CHUNK = 16  # images to a file


@dataclass(frozen=True)
class PredictionChunks:
    """The detector's predictions, made and kept in chunks of 16 images.

    Attributes:
        image_detector: detects in an image.
        folder: of the run.
        workers: see ``detxai.data.image_files.decoded``.
        annotations: a ``COCO``, to say of each missed annotation at which stage it was lost: the pass that makes the
            predictions knows; None: that is not wanted.
    """

    image_detector: ImageDetector
    folder: CocoFolder
    workers: int = 0
    annotations: Any | None = None

    def make(self, files: Sequence[ImageFile], first: int = 0) -> Iterator[int]:
        """Make every chunk that is missing, beginning with ``first``; yields how many images each has.

        Shards that share a disk begin at different chunks, and find what the others made; on disks of their own each
        makes them all.

        Raises:
            AllFailedError: the first images all failed, or all there are; then no chunk of them is kept.
        """
        parts = chunked(files)
        guard, made = FailureGuard(), []
        for step in range(len(parts)):
            number = (first + step) % len(parts)
            kept = self.read(number)
            if kept is None:
                made.append(number)
                try:
                    self.write(number, parts[number], self._detect(parts[number], guard))
                    self.expect_some_success(guard, number, len(files))
                except AllFailedError:
                    self.remove(made)
                    raise
            elif kept["images"]:
                guard.succeeded()
            yield len(parts[number])

    def annotations_of(self, file: ImageFile) -> Sequence[Annotation]:
        """The annotations of an image whose stage of loss is wanted."""
        return [] if self.annotations is None else self.annotations.imgToAnns.get(file.image_id, [])

    def write(self, number: int, files: Sequence[ImageFile], detected: Sequence[DetectedImage]) -> None:
        """Write one chunk: what was detected in its images, in their order."""
        content: dict[str, Any] = {"results": [], "misses": {}, "images": {}}
        for file, one in zip(files, detected, strict=True):
            content["results"] += one.results
            content["misses"] |= one.misses
            if one.sha256 is not None:
                content["images"][file.file_name] = one.sha256
        failures = [one.failure for one in detected if one.failure is not None]
        self.folder.write_failures(f"detecting-{number:06d}", failures)
        self.folder.write_json(self.chunk(number), content)  # last: a chunk that is there is complete

    def delete_failed(self) -> None:
        """Delete every chunk in which an image failed, so that it is made anew."""
        for path in self.folder.parts.glob("failures-detecting-*.parquet"):
            self.chunk(int(path.stem.rpartition("-")[2])).unlink(missing_ok=True)

    def remove(self, numbers: Sequence[int]) -> None:
        """Delete these chunks and their failures."""
        for number in numbers:
            self.chunk(number).unlink(missing_ok=True)
            self.folder.write_failures(f"detecting-{number:06d}", [])

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

    def read(self, number: int) -> dict[str, Any] | None:
        """A chunk; None where it is not there, or damaged."""
        try:
            content = json.loads(self.chunk(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(content, dict) and {"results", "misses", "images"} <= set(content)
        return content if whole else None

    def expect_some_success(self, guard: FailureGuard, number: int, n_images: int) -> None:
        """Raise ``AllFailedError`` where every image there is has failed, ``number`` being the last chunk written."""
        if guard.n_initial == n_images:
            last = self.folder.failures(f"detecting-{number:06d}")[-1]["reason"]
            raise AllFailedError(f"all {n_images} images failed; the last error: {last}")

    def _expect(self, number: int) -> dict[str, Any]:
        content = self.read(number)
        if content is None:
            raise ValueError(f"out: {self.chunk(number)} is missing or damaged; repeat the same command")
        return content

    def _detect(self, files: Sequence[ImageFile], guard: FailureGuard) -> list[DetectedImage]:
        detected = []
        for file, image in decoded(files, self.workers):
            raise_if_interrupted()
            detected.append(self.image_detector.detect(file, image, self.annotations_of(file)))
            count(guard, file, detected[-1])
        return detected


def chunked(files: Sequence[ImageFile]) -> list[Sequence[ImageFile]]:
    """The images of each chunk."""
    return [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]


def count(guard: FailureGuard, file: ImageFile, detected: DetectedImage) -> None:
    """Tell the guard of a run what became of an image.

    Raises:
        AllFailedError: so many failed from the start on that the request is at fault.
    """
    if detected.failure is None:
        guard.succeeded()
    else:
        guard.failed(f"{file.file_name}: {detected.failure['reason']}")
