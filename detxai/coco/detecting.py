"""Predictions made by the detector itself, chunk by chunk, so that a stopped run goes on; and what it lost then."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from detxai.adapters.adapter import Adapter
from detxai.coco.asking import Pixels
from detxai.coco.decoding import ImageFile, decoded
from detxai.coco.errors import xyxy
from detxai.coco.folder import Folder
from detxai.coco.misses import Miss, look_for
from detxai.coco.rows import Row, failure
from detxai.detections import Detections
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
        annotations: a ``COCO``, to say of each annotation where it is lost if it is: the pass that finds the others
            knows; None: nobody wants to know.
        iou: from which a box covers an annotation.
    """

    detector: Adapter
    label_to_category: Mapping[int, int]
    score_threshold: float
    folder: Folder
    workers: int = 0
    fail_fast: bool = False
    annotations: Any | None = None
    iou: float = 0.5

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
                results, misses, failures = self._detect(parts[number])
                self.folder.write_failures(f"detecting-{number:06d}", failures)
                self.folder.write_json(self._lost(number), misses)
                self.folder.write_json(path, results)  # last: a chunk that is there is complete
            yield len(parts[number])

    def forget_failed(self) -> None:
        """Let every chunk in which an image failed be made anew."""
        for path in self.folder.parts.glob("failures-detecting-*.parquet"):
            self.chunk(int(path.stem.rpartition("-")[2])).unlink(missing_ok=True)

    def results(self, n_images: int) -> list[dict[str, Any]]:
        """All chunks, in the order of the images: COCO results."""
        found: list[dict[str, Any]] = []
        for number in range(-(-n_images // CHUNK)):
            found += json.loads(self.chunk(number).read_text(encoding="utf-8"))
        return found

    def misses(self, n_images: int) -> dict[int, Miss]:
        """Annotation id -> where it is lost if it is, of all chunks."""
        found: dict[int, Miss] = {}
        for number in range(-(-n_images // CHUNK)):
            for annotation, entries in json.loads(self._lost(number).read_text(encoding="utf-8")).items():
                found[int(annotation)] = Miss(**entries)
        return found

    def chunk(self, number: int) -> Path:
        return self.folder.parts / f"predictions-{number:06d}.json"

    def _lost(self, number: int) -> Path:
        return self.folder.parts / f"misses-{number:06d}.json"

    def _detect(self, files: Sequence[ImageFile]) -> tuple[list[dict[str, Any]], dict[int, Any], list[Row]]:
        results: list[dict[str, Any]] = []
        misses: dict[int, Any] = {}
        failures: list[Row] = []
        for file, image in decoded(files, self.workers):
            if isinstance(image, str):
                if self.fail_fast:
                    raise ValueError(image)
                failures.append(failure(file, "reading", image, 0))
                continue
            try:
                detections, lost = self._look(file, image)
            except Exception as error:  # as in explaining: recorded, and on with the next
                if self.fail_fast:
                    raise
                failures.append(failure(file, "detecting", error, 0))
                continue
            misses |= lost
            known = [place for place, label in enumerate(detections.labels.tolist()) if label in self.label_to_category]
            results += to_coco_results(detections[known], file.image_id, label_to_category=self.label_to_category)
        return results, misses, failures

    def _look(self, file: ImageFile, image: Pixels) -> tuple[Detections, dict[int, Any]]:
        """What is found in an image, and for each annotation of it, where it is lost if it is."""
        labels = {category: label for label, category in self.label_to_category.items()}
        records = [] if self.annotations is None else self.annotations.imgToAnns.get(file.image_id, [])
        asked = [one for one in records if one["category_id"] in labels and not one["iscrowd"]]
        if not asked:
            return self.detector.detect(image, self.score_threshold).to("cpu"), {}
        with self.detector.remembering(heads=True), torch.no_grad():
            found = self.detector.detect(image, self.score_threshold).to("cpu")
            candidates = self.detector.candidates(image)
        return found, {
            one["id"]: asdict(
                look_for(
                    candidates, found, xyxy(one["bbox"]), labels[one["category_id"]],
                    iou=self.iou, threshold=self.score_threshold,
                )
            )
            for one in asked
        }  # fmt: skip
