"""The explanations of one image: its boxes put to the method together, and one by one where that fails."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detxai.adapters.detector import Detector, Features
from detxai.adapters.network import require_network
from detxai.coco.maps import Cells
from detxai.coco.misses import Miss, look_for, reproduce
from detxai.coco.rows import Row, box_row, image_failure, pixels_sha256
from detxai.data.error_kinds import Case
from detxai.data.image_files import ImageFile
from detxai.detections import Detections
from detxai.explain import Method, explain
from detxai.explanation import Explanation, plain
from detxai.images import Image
from detxai.runs.failures import expect_item_failure, let_go, reason

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """A box to explain: its place in the dataset, and what became of it."""

    row: int
    case: Case


@dataclass(frozen=True)
class Answer:
    """What came of one image.

    Attributes:
        rows: of its boxes, without their maps.
        explanations: that they are of.
        failures: what failed.
        cells: to keep maps at, if any.
        ready: rows with their maps.
    """

    rows: list[Row]
    explanations: list[Explanation]
    failures: list[Row]
    cells: Cells | None = None
    ready: Sequence[Row] = ()


@dataclass(frozen=True)
class Asker:
    """What is the same for every image of a run.

    Attributes:
        detector: the detector, which never leaves this process.
        method: the method.
        category_to_label: category id -> the detector's label.
        category_names: category id -> name.
        iou: from which a box covers an annotation.
        score_threshold: at which the detector is asked what it finds now.
        operating_point: score from which a detection finds an annotation.
        from_file: whether the predictions are of another run, and so have to be found again.
        misses: annotation id -> where it is lost, as this run saw when it made the predictions; None where the
            detector has to be asked.
        layer_maps: keep maps at the resolution of the finest layer explained, or, where the method explains none, of
            the detector's own.
        fail_fast: raise what fails.
    """

    detector: Detector
    method: Method
    category_to_label: Mapping[int, int]
    category_names: Mapping[int, str]
    iou: float
    score_threshold: float
    from_file: bool
    misses: Mapping[int, Miss] | None = None
    layer_maps: bool = False
    fail_fast: bool = False
    operating_point: float = 0.25

    def ask(self, file: ImageFile, image: Pixels, asked: Sequence[Asked]) -> Answer:
        """Explain these boxes of one image."""
        try:
            return self._ask(file, image, asked)
        except Exception as error:
            expect_item_failure(error)
            if self.fail_fast:
                raise
            let_go(error)
            if len(asked) == 1:
                return Answer([], [], [image_failure(file, "explaining", error, 1, asked[0].case)])
            log.warning("%s: all boxes together: %s; now one by one", file.file_name, reason(error))
        return self._one_by_one(file, image, asked)

    def _one_by_one(self, file: ImageFile, image: Pixels, asked: Sequence[Asked]) -> Answer:
        rows, explanations, failures, cells = [], [], [], None
        for one in asked:
            answer = self.ask(file, image, [one])
            rows += answer.rows
            explanations += answer.explanations
            failures += answer.failures
            cells = answer.cells or cells
        return Answer(rows, explanations, failures, cells)

    def _ask(self, file: ImageFile, image: Pixels, asked: Sequence[Asked]) -> Answer:
        detector = self.detector
        with detector.borrowed():
            # where only the method asks, there is no pass to share
            shared = self.layer_maps or any(self._asks_now(one.case) for one in asked)
            shown = detector.shared_pass(image) if shared else image
            now = _Now(self, shown)
            found = [self._found_now(one.case, now) for one in asked]
            explanations = explain(detector, shown, self.method, self._detections(asked, found))
            cells = self._cells(shown) if self.layer_maps else None
        if any(explanation.partial for explanation in explanations):
            raise KeyboardInterrupt  # the method gave what it had when Ctrl-C came: the image is explained anew
        if not self.method.asks_about_boxes:
            explanations = explanations * len(asked)
        height, width = image.shape[:2]
        picture = {"image_height": height, "image_width": width, "image_sha256": pixels_sha256(image)}
        rows = [
            {"file_name": file.file_name} | picture | self._about(one) | answer | self._made(explanation)
            for one, answer, explanation in zip(asked, found, explanations, strict=True)
        ]
        return Answer(rows, explanations, [], cells)

    def _cells(self, image: Image | Features) -> Cells:
        return Cells.finest(require_network(self.detector).features(image, getattr(self.method, "layers", None)))

    def _about(self, one: Asked) -> Row:
        return {"row": one.row, "label": self.category_to_label[one.case.category_id]} | box_row(
            one.case, self.category_names
        )

    def _detections(self, asked: Sequence[Asked], found: Sequence[Row]) -> Detections:
        """The boxes in question; a missed annotation is asked about with the best candidate's score."""
        scores = [
            answer["candidate_score"] if one.case.score is None else one.case.score
            for one, answer in zip(asked, found, strict=True)
        ]
        return Detections(
            [one.case.box for one in asked],
            torch.tensor(scores, dtype=torch.float32).clamp(0, 1),
            [self.category_to_label[one.case.category_id] for one in asked],
            self.detector.class_names,
        ).to(self.detector.device)

    def _asks_now(self, case: Case) -> bool:
        """Whether the row says what the detector makes of the image now."""
        return self.from_file or (case.kind == "missed" and self.misses is None)

    def _found_now(self, case: Case, now: _Now) -> Row:
        label = self.category_to_label[case.category_id]
        if case.kind == "missed":
            known = None if self.misses is None or case.annotation_id is None else self.misses[case.annotation_id]
            return self._miss_row(now.look_for(case, label) if known is None else known)
        if case.score is None or not self._asks_now(case):
            return {}
        found = reproduce(now.detections, case.box, label, case.score)
        difference = None if found.score is None else found.score - case.score
        return {
            "now_iou": found.iou,
            "now_score": found.score,
            "score_difference": difference,
            "reproduced": found.reproduced,
        }

    def _miss_row(self, miss: Miss) -> Row:
        names, other = self.detector.class_names, miss.other_label
        return {
            "stage": miss.stage,
            "candidate_score": miss.candidate_score,
            "candidate_iou": miss.candidate_iou,
            "candidate_box": list(miss.candidate_box),
            "other_category": None if other is None else names.get(other, str(other)),
            "other_score": miss.other_score,
            "suppressor_box": None if miss.suppressor_box is None else list(miss.suppressor_box),
            "suppressor_score": miss.suppressor_score,
            "suppressor_iou": miss.suppressor_iou,
        }

    def _made(self, explanation: Explanation) -> Row:
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


class _Now:
    """What the detector says of an image now; asked once, and only if somebody wants to know."""

    def __init__(self, asker: Asker, image: Image | Features) -> None:
        self.asker, self.image = asker, image

    @cached_property
    def detections(self) -> Detections:
        return self.asker.detector.detections(self.image, self.asker.score_threshold).to("cpu")

    @cached_property
    def candidates(self) -> Any:
        with torch.no_grad():
            return self.asker.detector.candidates(self.image)

    def look_for(self, case: Case, label: int) -> Miss:
        point = self.asker.operating_point
        counted = self.detections[self.detections.scores >= point]
        return look_for(self.candidates, counted, case.box, label, iou=self.asker.iou, threshold=point)
