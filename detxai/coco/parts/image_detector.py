"""The detections of one image as a run keeps them: COCO results, where each missed annotation is lost, a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from detxai.adapters.detector import Detector
from detxai.coco.folder import UnreadableImageError, failure_row
from detxai.coco.parts.misses import find_lost_stage
from detxai.data.error_kinds import xyxy
from detxai.data.image_files import ImageFile, Pixels
from detxai.detections import Detections
from detxai.formats import to_coco_results
from detxai.images import pixels_sha256
from detxai.runs.failures import expect_item_failure, release_tensors

Annotation = Mapping[str, Any]  # an entry of the annotation file


@dataclass(frozen=True)
class DetectedImage:
    """What came of one image.

    Attributes:
        results: COCO results.
        misses: annotation id -> where it is lost if it is.
        sha256: of the image's pixels; None where detecting failed.
        failure: row of ``failures.parquet``; None where all went well.
    """

    results: Sequence[Mapping[str, Any]] = ()
    misses: Mapping[int, Any] = field(default_factory=dict)
    sha256: str | None = None
    failure: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ImageDetector:
    """What is the same for every image in which a run detects.

    Attributes:
        detector: run once an image.
        label_to_category: labels without a category are never counted.
        score_threshold: below which boxes are dropped.
        operating_point: score from which a detection finds an annotation.
        iou: IoU threshold for a match.
        fail_fast: raise what fails.
    """

    detector: Detector
    label_to_category: Mapping[int, int]
    score_threshold: float
    operating_point: float = 0.25
    iou: float = 0.5
    fail_fast: bool = False

    def detect(self, file: ImageFile, image: Pixels | str, annotations: Sequence[Annotation] = ()) -> DetectedImage:
        """Detect in one image.

        Args:
            file: which image it is.
            image: its pixels, or why they could not be read.
            annotations: of the image, to say of each at which stage it is lost if it is: the pass that makes the
                predictions knows; none where that is not wanted.
        """
        try:
            if isinstance(image, str):
                raise UnreadableImageError(image)
            detections, lost = self._detections_and_misses(image, annotations)
        except Exception as error:
            expect_item_failure(error)
            if self.fail_fast:
                raise
            failure = failure_row(file, "detecting", error, 0)
            release_tensors(error)
            return DetectedImage(failure=failure)
        known = [place for place, label in enumerate(detections.labels.tolist()) if label in self.label_to_category]
        results = to_coco_results(detections[known], file.image_id, label_to_category=self.label_to_category)
        return DetectedImage(results, lost, pixels_sha256(image))

    def _detections_and_misses(
        self, image: Pixels, annotations: Sequence[Annotation]
    ) -> tuple[Detections, dict[int, Any]]:
        labels = {category: label for label, category in self.label_to_category.items()}
        annotated = [record for record in annotations if record["category_id"] in labels and not record["iscrowd"]]
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
