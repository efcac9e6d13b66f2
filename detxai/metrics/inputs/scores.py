"""What is left of each detection when its image is changed: the score functions, and the views they are asked of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from detxai.adapters.detector import Inputs
from detxai.detections import Candidates, Detections
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.scoring import ViewScorer
from detxai.methods.checks import check_choice
from detxai.metrics.inputs.case import Case, Reference
from detxai.targets import BoxTarget, ClassScoreTarget, SimilarityTarget
from detxai.targets.target import Match

ScoreFunction = Literal["class_score", "similarity", "gated_score"]
SCORE_FUNCTIONS: tuple[ScoreFunction, ...] = ("class_score", "similarity", "gated_score")


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


class ScoreSettings(Protocol):
    """The settings that measures of scores share."""

    @property
    def score(self) -> ScoreFunction: ...

    @property
    def reference(self) -> Reference: ...

    @property
    def batch_size(self) -> int | None: ...


def check_score(score: str) -> None:
    """Raise ``ValueError`` where there is no such score function."""
    check_choice("score", score, SCORE_FUNCTIONS)


def detection_targets(case: Case, score: ScoreFunction, reference: Reference) -> list[BoxTarget]:
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


def scorer_of(case: Case, canvas: Canvas, settings: ScoreSettings) -> ViewScorer:
    """What scores every detection of the case in views of its image, as a measure's settings ask."""
    targets = detection_targets(case, settings.score, settings.reference)
    return ViewScorer(case.detector, canvas, targets, settings.batch_size)


def distinct(maps: Tensor) -> Tensor:
    """The maps to change an image by: (1, H, W) where all T are the same, as of a method that asks about no box.

    >>> distinct(torch.zeros(3, 2, 2)).shape, distinct(torch.arange(12.0).view(3, 2, 2)).shape
    (torch.Size([1, 2, 2]), torch.Size([3, 2, 2]))
    """
    return maps[:1] if len(maps) and all(torch.equal(maps[0], other) for other in maps[1:]) else maps


def scores_by_map(scorer: ViewScorer, views: Callable[[Tensor], Inputs], n_maps: int, n_each: int) -> Tensor:
    """(T, n_each) float32: each target's scores in the views that its map makes; one map for all makes them once.

    Args:
        scorer: of T targets.
        views: from view numbers (B,) to the views as the model reads them; view ``i`` is of map ``i // n_each``.
        n_maps: 1 or T, see ``distinct``.
        n_each: how many views each map makes.
    """
    if n_maps == 1:
        return scorer.of_views(views, n_each)
    own = torch.arange(n_maps, device=scorer.canvas.clean.tensor.device).repeat_interleave(n_each)
    return scorer.of_views(views, len(own), own).view(n_maps, n_each)
