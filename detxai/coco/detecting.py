"""Predictions made by the detector itself, chunk by chunk, so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detxai.adapters.adapter import Adapter
from detxai.coco.decoding import ImageFile, decoded
from detxai.coco.folder import Folder
from detxai.coco.rows import Row, failure
from detxai.formats import to_coco_results

CHUNK = 16  # images to a file


@dataclass(frozen=True)
class Detecting:
    """What a pass over all images needs.

    Attributes:
        detector: asked once an image.
        label_to_category: labels without a category are never counted.
        score_threshold: below which boxes are dropped.
        folder: of the run.
        workers: see ``detxai.coco.decoding.decoded``.
        fail_fast: raise what fails.
    """

    detector: Adapter
    label_to_category: Mapping[int, int]
    score_threshold: float
    folder: Folder
    workers: int = 0
    fail_fast: bool = False

    def chunks(self, files: Sequence[ImageFile], first: int = 0) -> Iterator[int]:
        """Make every chunk that is missing, beginning with ``first``; yields how many images each has.

        Shards that share a disk begin at different chunks, and find what the others made; on disks of their own each
        makes them all.
        """
        parts = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
        for step in range(len(parts)):
            number = (first + step) % len(parts)
            path = self.chunk(number)
            if not path.is_file():
                results, failures = self._detect(parts[number])
                self.folder.write_failures(f"detecting-{number:06d}", failures)
                self.folder.write_json(path, results)
            yield len(parts[number])

    def results(self, n_images: int) -> list[dict[str, Any]]:
        """All chunks, in the order of the images: COCO results."""
        found: list[dict[str, Any]] = []
        for number in range(-(-n_images // CHUNK)):
            found += json.loads(self.chunk(number).read_text(encoding="utf-8"))
        return found

    def chunk(self, number: int) -> Path:
        return self.folder.parts / f"predictions-{number:06d}.json"

    def _detect(self, files: Sequence[ImageFile]) -> tuple[list[dict[str, Any]], list[Row]]:
        results: list[dict[str, Any]] = []
        failures: list[Row] = []
        for file, image in decoded(files, self.workers):
            if isinstance(image, str):
                if self.fail_fast:
                    raise ValueError(image)
                failures.append(failure(file, "reading", image, 0))
                continue
            try:
                detections = self.detector.detect(image, self.score_threshold).to("cpu")
            except Exception as error:  # as in explaining: recorded, and on with the next
                if self.fail_fast:
                    raise
                failures.append(failure(file, "detecting", error, 0))
                continue
            known = [place for place, label in enumerate(detections.labels.tolist()) if label in self.label_to_category]
            results += to_coco_results(detections[known], file.image_id, label_to_category=self.label_to_category)
        return results, failures
