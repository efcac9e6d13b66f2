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

from detxai.adapters.adapter import Adapter
from detxai.coco.decoding import ImageFile
from detxai.coco.errors import Case
from detxai.coco.maps import store_map
from detxai.coco.misses import Miss, look_for, reproduce
from detxai.detections import Detections
from detxai.explain import Method, explain
from detxai.explanation import Explanation, plain
from detxai.metrics.energy import energy_share
from detxai.metrics.maps import box_masks
from detxai.metrics.pointing_game import pointing_hits

log = logging.getLogger(__name__)

Row = dict[str, Any]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """A box to explain: its place in the dataset, and what became of it."""

    row: int
    case: Case


@dataclass(frozen=True)
class Answer:
    """The rows of one image, with the explanations they are of, and what failed."""

    rows: list[Row]
    explanations: list[Explanation]
    failures: list[Row]


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
        from_file: whether the predictions are of another run, and so have to be found again.
        map_stride: image pixels to a stored one.
        fail_fast: raise what fails.
    """

    detector: Adapter
    method: Method
    category_to_label: Mapping[int, int]
    category_names: Mapping[int, str]
    iou: float
    score_threshold: float
    from_file: bool
    map_stride: int = 1
    fail_fast: bool = False

    def ask(self, file: ImageFile, image: Pixels, asked: Sequence[Asked]) -> Answer:
        """Explain these boxes of one image."""
        try:
            return self._ask(file, image, asked)
        except Exception as error:  # in a long run a failing image is recorded, whatever it fails of
            if self.fail_fast:
                raise
            _forget(error)
            if len(asked) == 1:
                return Answer([], [], [failure(file, "explaining", error, 1, asked[0].case)])
            log.warning("%s: all boxes together: %s; now one by one", file.file_name, reason(error))
        return self._one_by_one(file, image, asked)

    def _one_by_one(self, file: ImageFile, image: Pixels, asked: Sequence[Asked]) -> Answer:
        whole = Answer([], [], [])
        for one in asked:
            answer = self.ask(file, image, [one])
            whole.rows.extend(answer.rows)
            whole.explanations.extend(answer.explanations)
            whole.failures.extend(answer.failures)
        return whole

    def _ask(self, file: ImageFile, image: Pixels, asked: Sequence[Asked]) -> Answer:
        now = _Now(self, image)
        found = [self._found_now(one.case, now) for one in asked]
        explanations = explain(self.detector, image, self.method, self._detections(asked, found))
        if not self.method.asks_about_boxes:
            explanations = explanations * len(asked)
        stored = self._stored(explanations)
        measured = self._measured(asked, explanations)
        rows = [
            {"file_name": file.file_name, "image_height": image.shape[0], "image_width": image.shape[1]}
            | self._about(one)
            | answer
            | self._made(explanation)
            | map_
            | measures
            for one, answer, explanation, map_, measures in zip(
                asked, found, explanations, stored, measured, strict=True
            )
        ]
        return Answer(rows, explanations, [])

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

    def _found_now(self, case: Case, now: _Now) -> Row:
        label = self.category_to_label[case.category_id]
        if case.kind == "missed":
            return self._miss_row(now.look_for(case, label))
        if not self.from_file or case.score is None:
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

    def _stored(self, explanations: Sequence[Explanation]) -> list[Row]:
        """Each map as a PNG, made once where boxes share it."""
        once: dict[int, Row] = {}
        for explanation in explanations:
            if id(explanation) not in once:
                stored = store_map(explanation.values, self.map_stride)
                once[id(explanation)] = {
                    "map_png": stored.png,
                    "map_scale": stored.scale,
                    "map_offset": stored.offset,
                    "map_stride": self.map_stride,
                }
        return [once[id(explanation)] for explanation in explanations]

    def _measured(self, asked: Sequence[Asked], explanations: Sequence[Explanation]) -> list[Row]:
        rows = []
        for one, explanation in zip(asked, explanations, strict=True):
            map_ = torch.from_numpy(explanation.values)[None]
            inside = box_masks(torch.tensor([one.case.box]), (map_.shape[1], map_.shape[2]))
            rows.append(
                {
                    "energy_box": float(energy_share(map_, inside)),
                    "energy_box_chance": float(inside.float().mean()),
                    "pointing_box": float(pointing_hits(map_, inside)),
                }
            )
        return rows


class _Now:
    """What the detector says of an image now; asked once, and only if somebody wants to know."""

    def __init__(self, asker: Asker, image: Pixels) -> None:
        self.asker, self.image = asker, image

    @cached_property
    def detections(self) -> Detections:
        return self.asker.detector.detect(self.image, self.asker.score_threshold).to("cpu")

    @cached_property
    def candidates(self) -> Any:
        with torch.no_grad():
            return self.asker.detector.candidates(self.image)

    def look_for(self, case: Case, label: int) -> Miss:
        threshold = self.asker.score_threshold
        return look_for(self.candidates, self.detections, case.box, label, iou=self.asker.iou, threshold=threshold)


def box_row(case: Case, category_names: Mapping[int, str]) -> Row:
    """A case as a row of ``boxes.parquet``, without the file's name."""
    meant = case.annotation_category_id
    return {
        "image_id": case.image_id,
        "kind": case.kind,
        "category_id": case.category_id,
        "category": category_names[case.category_id],
        "box": list(case.box),
        "score": case.score,
        "prediction_id": case.prediction_id,
        "annotation_id": case.annotation_id,
        "annotation_box": None if case.annotation_box is None else list(case.annotation_box),
        "annotation_category": None if meant is None else category_names[meant],
        "iou": case.iou,
        "area": case.area,
        "covered_by": case.covered_by,
        "ap_loss": case.ap_loss,
    }


def failure(file: ImageFile, step: str, error: BaseException | str, n_boxes: int, case: Case | None = None) -> Row:
    """A row of ``failures.parquet``."""
    return {
        "image_id": file.image_id,
        "file_name": file.file_name,
        "step": step,
        "prediction_id": None if case is None else case.prediction_id,
        "annotation_id": case.annotation_id if case is not None and case.prediction_id is None else None,
        "n_boxes": n_boxes,
        "reason": error if isinstance(error, str) else reason(error),
    }


def reason(error: BaseException) -> str:
    """An error in one line: its kind and what it says, the first 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _forget(error: BaseException) -> None:
    """Let go of what the failed call held, so that running out of memory does not cost the next image too."""
    error.__traceback__ = None
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
