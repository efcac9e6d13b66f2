"""What is left of each detection when its image is changed: the score functions, asked of many images in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.detections import Candidates, Detections
from detxai.engine.batching import images_at_once, in_batches
from detxai.engine.masking.perturbing import Canvas
from detxai.metrics.inputs.case import Case, Reference
from detxai.targets import BoxTarget, ClassScoreTarget, SimilarityTarget, score_targets
from detxai.targets.target import Match

ScoreFunction = Literal["class_score", "similarity", "gated_score"]
SCORE_FUNCTIONS: tuple[ScoreFunction, ...] = ("class_score", "similarity", "gated_score")
Ask: TypeAlias = Callable[[Candidates, slice], Tensor]

PAIRS_AT_ONCE = 2**22  # of a target and a candidate: their boxes and overlaps take some 60 bytes for each


@dataclass(frozen=True)
class GatedScoreTarget(BoxTarget):
    """The highest score for the class among boxes that overlap the target's by more than half; 0 without any.

    ``score = max_j p_j(label) [IoU(box, box_j) > 0.5]``: it falls off a cliff where the best box drifts.

    Source: Zhao et al., 2023, ODAM (ICLR), the score of its insertion and deletion.

    >>> found = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "scores": torch.tensor([0.9]),
    ...          "labels": torch.tensor([3])}
    >>> GatedScoreTarget([0, 0, 10, 6], label=3)(found), GatedScoreTarget([0, 0, 10, 5], label=3)(found)
    (tensor(0.9000), tensor(0.))
    """

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        return (match.score * (match.iou > 0.5)).amax(-1)


def check_score(score: str) -> None:
    """Raises: ValueError: no such score function."""
    if score not in SCORE_FUNCTIONS:
        raise ValueError(f"score must be one of {SCORE_FUNCTIONS}, got {score!r}")


def questions(case: Case, score: ScoreFunction, reference: Reference) -> list[BoxTarget]:
    """The question about each detection that a score function asks.

    ``"class_score"``: ``max_j IoU p_j(label)`` over *all* candidates (VPS; no threshold, so no cliff).
    ``"similarity"``: ``max_j IoU objectness_j cos(P, P_j)`` with P the class vector of the candidate that the
    detection came from (D-RISE; VX-CODE leaves the objectness out, where the classes include the background).
    ``"gated_score"``: ``max_j p_j(label) [IoU > 0.5]`` (ODAM).

    Args:
        case: the detections.
        score: which function.
        reference: whose box and label.
    """
    check_score(score)
    boxes, labels, _ = case.reference(reference)
    pairs = list(zip(boxes.tolist(), labels.tolist(), strict=True))
    if score == "class_score":
        return [ClassScoreTarget(box, label, reach=0) for box, label in pairs]
    if score == "gated_score":
        return [GatedScoreTarget(box, label, reach=0) for box, label in pairs]
    with torch.no_grad():
        candidates = case.detector.candidates(case.image)
    asked = Detections(boxes, torch.ones(len(boxes)), labels)
    return list(SimilarityTarget.seen_in(candidates, asked, reach=0))


def each_its_own(targets: Sequence[BoxTarget], owners: Sequence[int]) -> Ask:
    """Ask each image one target only: image i the target ``owners[i]``. Neighbours that share one are asked together.

    The answer is (B,).
    """

    def ask(candidates: Candidates, items: slice) -> Tensor:
        answers, start = [], 0
        for owner, images in groupby(owners[items]):
            stop = start + sum(1 for _ in images)
            answers.append(score_targets([targets[owner]], candidates[start:stop])[0])
            start = stop
        return torch.cat(answers)

    return ask


def every_target(targets: Sequence[BoxTarget]) -> Ask:
    """Ask each image every target: the answer is (T, B)."""

    def ask(candidates: Candidates, items: slice) -> Tensor:
        at_once = max(1, PAIRS_AT_ONCE // max(1, candidates.boxes.shape[:2].numel()))
        parts = range(0, len(targets), at_once)
        return torch.cat([score_targets(targets[start : start + at_once], candidates) for start in parts])

    return ask


def scores_of(
    detector: Detector, n: int, make: Callable[[Tensor], Inputs], ask: Ask, like: Tensor, batch_size: int | None = None
) -> Tensor:
    """The answers for n changed images, in batches that fit the device.

    Args:
        detector: what is asked.
        n: how many images.
        make: from image numbers (B,), on the detector's device, to the images as the model reads them.
        ask: the question; see ``each_its_own`` and ``every_target``.
        like: (1, 3, h, w), one such image.
        batch_size: images at once; None: what fits the device.

    Returns:
        (..., n), float32.
    """
    size = batch_size or images_at_once(like)
    numbers = torch.arange(n, device=like.device)
    answers, start = [], 0
    with detector.borrowed(), torch.no_grad():

        def run(part: Tensor) -> Tensor:
            return ask(detector.candidates(make(part)), slice(start, start + len(part)))

        for part, answer in in_batches(numbers, size, run):
            answers.append(answer.float())
            start += len(part)
    return torch.cat(answers, -1)


def distinct(maps: Tensor) -> Tensor:
    """The maps to change an image by: (1, H, W) where all T are the same, as of a method that asks about no box.

    >>> distinct(torch.zeros(3, 2, 2)).shape, distinct(torch.arange(12.0).view(3, 2, 2)).shape
    (torch.Size([1, 2, 2]), torch.Size([3, 2, 2]))
    """
    return maps[:1] if len(maps) and all(torch.equal(maps[0], other) for other in maps[1:]) else maps


def scores_by_map(
    detector: Detector,
    targets: Sequence[BoxTarget],
    n_maps: int,
    n_each: int,
    make: Callable[[Tensor], Inputs],
    like: Tensor,
    batch_size: int | None = None,
) -> Tensor:
    """What is left of each target on the images that its map makes; one map for all makes them once.

    Args:
        detector: what is asked.
        targets: T questions.
        n_maps: 1 or T, see ``distinct``.
        n_each: how many images each map makes; 0 gives (T, 0).
        make: as for ``scores_of``; image number ``i`` is of map ``i // n_each``.
        like: (1, 3, h, w), one such image.
        batch_size: images at once; None: what fits the device.

    Returns:
        (T, n_each), float32.
    """
    if not targets or not n_each:
        return like.new_zeros(len(targets), n_each)
    owners = [place for place in range(n_maps) for _ in range(n_each)]
    ask = every_target(targets) if n_maps == 1 else each_its_own(targets, owners)
    return scores_of(detector, n_maps * n_each, make, ask, like, batch_size).view(len(targets), n_each)


def clean_and_hidden(canvas: Canvas, detector: Detector, targets: Sequence[BoxTarget]) -> tuple[Tensor, Tensor]:
    """(T,) every target's score on the whole image, and (T, F) on nothing but each filling of the canvas."""
    n_fills = len(canvas.filling)

    def make(numbers: Tensor) -> Inputs:  # the whole image, then the fillings
        keep = (numbers == 0).float()[:, None, None].expand(-1, *canvas.size)
        return canvas.inputs(keep, (numbers - 1).clamp(min=0))

    scores = scores_of(detector, 1 + n_fills, make, every_target(targets), canvas.clean.tensor)
    return scores[:, 0], scores[:, 1:]
