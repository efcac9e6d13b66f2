"""The explanations of one image: its boxes given to the method together, and one by one where that fails."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from detxai.adapters.detector import Detector, Features
from detxai.adapters.network import require_network
from detxai.coco.folder import failure_row
from detxai.coco.parts.misses import Miss, find_lost_stage, reproduce
from detxai.coco.parts.plan import BoxQuery
from detxai.coco.parts.stored_maps import LayerCells
from detxai.data.error_kinds import LabelledBox
from detxai.data.image_files import ImageFile, Pixels
from detxai.detections import Candidates, Detections
from detxai.explain import Method, explain
from detxai.explanation import Explanation, plain
from detxai.images import Image, pixels_sha256
from detxai.runs.failures import expect_item_failure, reason, release_tensors

log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class ImageResult:
    """What came of one image.

    Attributes:
        rows: of its boxes, without their maps.
        explanations: of the same boxes.
        failures: rows of ``failures.parquet``.
        cells: to keep maps at, if any.
        reused: rows with their maps, of boxes that were explained before.
        same_picture: whether the image is the picture in which those boxes were explained.
    """

    rows: Sequence[Row] = ()
    explanations: Sequence[Explanation] = ()
    failures: Sequence[Row] = ()
    cells: LayerCells | None = None
    reused: Sequence[Row] = ()
    same_picture: bool = True


@dataclass(frozen=True)
class ImageExplainer:
    """What is the same for every image of a run.

    Attributes:
        detector: the detector, which never leaves this process.
        method: the method.
        category_to_label: category id -> the detector's label.
        iou: IoU threshold for a match.
        score_threshold: of the detector's current detections.
        operating_point: score from which a detection finds an annotation.
        from_file: whether the predictions may be of another detector, and so are compared with current detections.
        misses: annotation id -> where it was lost, as this run saw when it made the predictions; the detector is run
            again for annotations that are not in it.
        layer_maps: keep maps at the resolution of the finest layer explained, or, where the method explains none, of
            the detector's own.
        fail_fast: raise what fails.
    """

    detector: Detector
    method: Method
    category_to_label: Mapping[int, int]
    iou: float
    score_threshold: float
    from_file: bool
    misses: Mapping[int, Miss] | None = None
    layer_maps: bool = False
    fail_fast: bool = False
    operating_point: float = 0.25

    def explain(self, file: ImageFile, image: Pixels, queries: Sequence[BoxQuery]) -> ImageResult:
        """Explain these boxes of one image."""
        try:
            return self._explain_together(file, image, queries)
        except Exception as error:
            expect_item_failure(error)
            if self.fail_fast:
                raise
            release_tensors(error)
            if len(queries) == 1:
                return ImageResult(failures=[failure_row(file, "explaining", error, 1, queries[0].box)])
            log.warning("%s: all boxes together: %s; now one by one", file.file_name, reason(error))
        results = [self.explain(file, image, [query]) for query in queries]
        return ImageResult(
            [row for result in results for row in result.rows],
            [explanation for result in results for explanation in result.explanations],
            [failure for result in results for failure in result.failures],
            next((result.cells for result in reversed(results) if result.cells), None),
        )

    def _explain_together(self, file: ImageFile, image: Pixels, queries: Sequence[BoxQuery]) -> ImageResult:
        detector = self.detector
        with detector.borrowed():
            # where only the method runs the detector, there is no pass to share
            shared = self.layer_maps or any(self._needs_current_output(query.box) for query in queries)
            shown = detector.shared_pass(image) if shared else image
            current = CurrentOutput(self, shown)
            found = [self._current_columns(query.box, current) for query in queries]
            explanations = explain(detector, shown, self.method, self._detections(queries, found))
            cells = self._finest_cells(shown) if self.layer_maps else None
        if any(explanation.partial for explanation in explanations):
            raise KeyboardInterrupt  # the method gave what it had when Ctrl-C came: the image is explained anew
        if not self.method.asks_about_boxes:
            explanations = explanations * len(queries)
        height, width = image.shape[:2]
        picture = {"image_height": height, "image_width": width, "image_sha256": pixels_sha256(image)}
        rows = [
            {"row": query.row, "label": self.category_to_label[query.box.category_id]}
            | query.box.as_row() | picture | columns | self._method_columns(explanation)
            for query, columns, explanation in zip(queries, found, explanations, strict=True)
        ]  # fmt: skip
        return ImageResult(rows, explanations, cells=cells)

    def _finest_cells(self, image: Image | Features) -> LayerCells:
        network = require_network(self.detector)
        return LayerCells.finest(network.features(image, getattr(self.method, "layers", None)))

    def _detections(self, queries: Sequence[BoxQuery], found: Sequence[Row]) -> Detections:
        """The boxes in question; a missed annotation gets the best candidate's score."""
        scores = [
            columns["candidate_score"] if query.box.score is None else query.box.score
            for query, columns in zip(queries, found, strict=True)
        ]
        return Detections(
            [query.box.box for query in queries],
            torch.tensor(scores, dtype=torch.float32).clamp(0, 1),
            [self.category_to_label[query.box.category_id] for query in queries],
            self.detector.class_names,
        ).to(self.detector.device)

    def _needs_current_output(self, box: LabelledBox) -> bool:
        """Whether the row needs what the detector makes of the image now."""
        return self.from_file or (box.kind == "missed" and self._known_miss(box) is None)

    def _known_miss(self, box: LabelledBox) -> Miss | None:
        return None if self.misses is None or box.annotation_id is None else self.misses.get(box.annotation_id)

    def _current_columns(self, box: LabelledBox, current: CurrentOutput) -> Row:
        """Of a miss: where it was lost. Of a prediction from a file: the detection that it is now, if any."""
        label = self.category_to_label[box.category_id]
        if box.kind == "missed":
            return self._miss_columns(self._known_miss(box) or current.miss(box, label))
        if box.score is None or not self.from_file:
            return {}
        found = reproduce(current.detections, box.box, label, box.score)
        return {
            "now_iou": found.iou,
            "now_score": found.score,
            "score_difference": None if found.score is None else found.score - box.score,
            "reproduced": found.reproduced,
        }

    def _miss_columns(self, miss: Miss) -> Row:
        columns: Row = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(miss).items()
        }
        other = columns.pop("other_label")
        return columns | {"other_category": None if other is None else self.detector.class_names.get(other, str(other))}

    def _method_columns(self, explanation: Explanation) -> Row:
        seed = explanation.settings.get("seed")
        return {
            "method": explanation.method,
            "settings": json.dumps(plain(explanation.settings), sort_keys=True),
            "asks_about_box": self.method.asks_about_boxes,
            "seed": seed if isinstance(seed, int) else None,
            "model": json.dumps(plain(explanation.model), sort_keys=True),
            "seconds": explanation.cost.seconds,
            "forward_passes": explanation.cost.forward_passes,
        }


class CurrentOutput:
    """What the detector makes of an image now; it is run once, and only where that is needed."""

    def __init__(self, explainer: ImageExplainer, image: Image | Features) -> None:
        self.explainer, self.image = explainer, image

    @cached_property
    def detections(self) -> Detections:
        return self.explainer.detector.detections(self.image, self.explainer.score_threshold).to("cpu")

    @cached_property
    def candidates(self) -> Candidates:
        with torch.no_grad():
            return self.explainer.detector.candidates(self.image)

    def miss(self, box: LabelledBox, label: int) -> Miss:
        """Where a missed annotation is lost."""
        point = self.explainer.operating_point
        counted = self.detections[self.detections.scores >= point]
        return find_lost_stage(self.candidates, counted, box.box, label, iou=self.explainer.iou, threshold=point)
