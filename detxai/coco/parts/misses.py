"""At which stage a detector lost an annotated object, and whether it still makes a prediction from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from detxai.data.error_kinds import Box
from detxai.detections import Candidates, Detections
from detxai.geometry import box_iou

Stage = Literal["found_now", "no_proposal", "wrong_class", "low_score", "suppressed", "cut_off"]
STAGES: tuple[Stage, ...] = get_args(Stage)
SUPPRESSING_IOU = 0.4  # detectors suppress from an IoU of 0.45 (YOLOv5's habit) to 0.7
SAME_IOU, SAME_SCORE = 0.9, 0.05  # what rounding in the file, another precision or another resize may change


@dataclass(frozen=True)
class Miss:
    """Why an annotated object is not among the detections.

    Attributes:
        stage: the first of these that holds. ``found_now``: a detection of its class covers it after all (COCOeval gave
            it to another annotation, or the predictions file is of another run). ``no_proposal``: no candidate
            covers it. ``wrong_class``: candidates do, but for another class: below the threshold for its own and above
            it for the other, or a detection of the other class lies where the best candidate does and scores no
            less. ``low_score``: below the threshold for all. ``suppressed``: one scores enough, and a detection of
            its class that overlaps it scores no less. ``cut_off``: neither; a limit or threshold inside the detector.
        candidate_score: of the best candidate, for the annotation's class: the highest score among those that cover
            it, or, where none does, the score of the one that overlaps it most.
        candidate_iou: of that candidate with the annotation.
        candidate_box: xyxy, pixels of the original image.
        other_label: for ``wrong_class``, the other class: the one that scores highest among the candidates that cover
            it, or that of the detection in its place.
        other_score: and its score.
        suppressor_box: for ``suppressed``, the detection that overlaps the best candidate most.
        suppressor_score: its score.
        suppressor_iou: its IoU with the best candidate.
    """

    stage: Stage
    candidate_score: float
    candidate_iou: float
    candidate_box: Box
    other_label: int | None = None
    other_score: float | None = None
    suppressor_box: Box | None = None
    suppressor_score: float | None = None
    suppressor_iou: float | None = None


@dataclass(frozen=True)
class _Rival:
    """A detection where a candidate lies, and its IoU with that."""

    box: Box
    score: float
    iou: float
    label: int


def find_lost_stage(
    candidates: Candidates, detections: Detections, box: Box, label: int, *, iou: float, threshold: float
) -> Miss:
    """Where one annotated object was lost.

    Args:
        candidates: of this one image, all of them.
        detections: what the detector makes of them, at ``threshold``.
        box: the annotation's, xyxy.
        label: its class, as the detector counts them.
        iou: IoU threshold for a match.
        threshold: lowest score of the detections.

    >>> boxes = torch.tensor([[[[0.0, 0.0, 10.0, 10.0]], [[1.0, 0.0, 11.0, 10.0]]]])
    >>> scores = torch.tensor([[[0.6, 0.1], [0.7, 0.1]]])
    >>> seen = Candidates(boxes, scores, scores.amax(-1), torch.tensor([0, 1]))
    >>> kept = Detections(boxes[0, 1:, 0], [0.7], [0])
    >>> find_lost_stage(seen, kept, (0.0, 0.0, 10.0, 10.0), 0, iou=0.5, threshold=0.25).stage
    'found_now'
    >>> find_lost_stage(seen, kept, (0.0, 0.0, 10.0, 10.0), 1, iou=0.5, threshold=0.25).stage
    'wrong_class'
    """
    boxes, scores = (of_label[0, 0] for of_label in candidates.of_labels(torch.tensor([label])))
    if len(boxes) == 0:
        return Miss("no_proposal", 0.0, 0.0, box)
    overlap = box_iou(boxes.new_tensor(box), boxes)
    covers = overlap >= iou
    best = int(torch.where(covers, scores, -1).argmax()) if bool(covers.any()) else int(overlap.argmax())
    seen = (float(scores[best]), float(overlap[best]), _box(boxes[best]))
    if _covered(detections, box, label, iou):
        return Miss("found_now", *seen)
    if not bool(covers.any()):
        return Miss("no_proposal", *seen)
    if seen[0] < threshold:
        others = candidates.class_scores[0, covers] * (candidates.labels != label)
        if float(others.max()) >= threshold:
            column = int(others.amax(0).argmax())
            return Miss("wrong_class", *seen, int(candidates.labels[column]), float(others.max()))
        return Miss("low_score", *seen)
    same = detections.labels == label
    suppressor = _in_the_way(detections[same], boxes[best], seen[0])
    if suppressor is not None:
        return Miss("suppressed", *seen, None, None, suppressor.box, suppressor.score, suppressor.iou)
    rival = _in_the_way(detections[~same], boxes[best], seen[0])
    if rival is None:
        return Miss("cut_off", *seen)
    return Miss("wrong_class", *seen, rival.label, rival.score)


def _covered(detections: Detections, box: Box, label: int, iou: float) -> bool:
    same = detections.boxes[detections.labels == label]
    return bool((box_iou(same.new_tensor(box), same) >= iou).any())


def _in_the_way(detections: Detections, box: Tensor, score: float) -> _Rival | None:
    """Of the detections that score no less, the one that overlaps ``box`` most."""
    overlap = box_iou(box.to(detections.boxes), detections.boxes)
    possible = (overlap >= SUPPRESSING_IOU) & (detections.scores >= score - 1e-4)
    if not bool(possible.any()):
        return None
    best = int(torch.where(possible, overlap, -1).argmax())
    chosen = detections[best]
    return _Rival(_box(chosen.boxes[0]), float(chosen.scores[0]), float(overlap[best]), int(chosen.labels[0]))


@dataclass(frozen=True)
class Reproduction:
    """The detection that the detector makes now where a predictions file has a box.

    Attributes:
        iou: of the file's box and the detection of its class that overlaps it most; 0 where there is none.
        score: of that detection; None where there is none.
        reproduced: whether it is the same: IoU of at least 0.9, and a score no further off than 0.05.
    """

    iou: float
    score: float | None
    reproduced: bool


def reproduce(detections: Detections, box: Box, label: int, score: float) -> Reproduction:
    """Look among the detections of this image for one prediction from a file.

    >>> now = Detections([[0, 0, 10, 10]], [0.5], [3])
    >>> reproduce(now, (0.0, 0.0, 10.0, 10.0), 3, 0.8)
    Reproduction(iou=1.0, score=0.5, reproduced=False)
    """
    same = detections[detections.labels == label]
    if len(same) == 0:
        return Reproduction(0.0, None, False)
    overlap = box_iou(same.boxes.new_tensor(box), same.boxes)
    # of several in the same place, the one with the nearest score
    same_place = overlap >= min(SAME_IOU, float(overlap.max()))
    best = int(torch.where(same_place, (same.scores - score).abs(), torch.inf).argmin())
    iou, now = float(overlap[best]), float(same.scores[best])
    return Reproduction(iou, now, iou >= SAME_IOU and abs(now - score) <= SAME_SCORE)


def _box(box: Tensor) -> Box:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
