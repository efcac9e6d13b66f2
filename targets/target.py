"""What a target is: a question about one box, scored for many images at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from detxai.detections import Candidates, Detections
from detxai.geometry import box_iou

T = TypeVar("T")
AnsweredBy = Literal["any candidates", "highest score", "highest class score"]
ROUNDING = 1e-4  # of a side of the box: how much rounding moves it, on this device or another


class Target(Protocol):
    """Anything that turns what a detector returns for one image into one differentiable scalar."""

    def __call__(self, output: Any) -> Tensor: ...


@dataclass(frozen=True)
class Match:
    """How each of N candidates of B images relates to each of T targets; all (T, B, N).

    Attributes:
        iou: with the target's box; 0 where the candidate is out of the target's reach.
        score: the candidate's score for the target's class; 0 where it is out of reach.
        boxes: (T, B, N, 4) the candidates' boxes for the target's class.
        within_reach: bool, whether the candidate is within the target's reach.
    """

    iou: Tensor
    score: Tensor
    boxes: Tensor
    within_reach: Tensor


@dataclass(frozen=True)
class BoxTarget(ABC):
    """A question about one box of one class.

    It scores ``Candidates`` (before non-maximum suppression), ``Detections`` and torchvision's output dict (after it),
    and works unchanged as a member of grad-cam's ``targets`` list.

    Three class attributes tell an ablation which candidates and classes it may skip. The defaults are safe for any
    target: every candidate is computed, with all its classes. A class that reads less sets them in its own body, and is
    then scored many times faster. Subclasses do not inherit them, since they may score differently: a subclass repeats
    those that still hold.

    Attributes:
        answered_by: whether a single candidate decides. ``"highest score"``: ``score`` is the maximum over candidates
            of a number computed from each alone, from 0 to ``IoU * p(label)`` (``IoU * objectness`` where it reads all
            classes). ``"highest class score"``: ``score`` reads only the candidate with the highest
            ``IoU * p(label)``, and is 0 where that is 0. ``"any candidates"``: neither; it may read all of them.
        reads_all_classes: whether ``score`` reads the classes other than ``label``.
        ignores_reach: whether candidates out of reach can change ``score``.

    Args:
        box: (4,) xyxy, pixels of the original image.
        label: class number, as in ``Detections.labels``.
        reach: only candidates whose *proposal* overlaps the box by this IoU, in [0, 1], count; 0 counts all. A box
            regression is unbounded, so this is part of the question, not an approximation of it. Candidates without
            proposals all count.

    Raises:
        TypeError, ValueError: an argument is not of this kind.
    """

    answered_by: ClassVar[AnsweredBy] = "any candidates"
    reads_all_classes: ClassVar[bool] = True
    ignores_reach: ClassVar[bool] = True

    box: Sequence[float] | Tensor
    label: int
    reach: float = 0.1

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for name in ("answered_by", "reads_all_classes", "ignores_reach"):
            if name not in vars(cls):
                setattr(cls, name, getattr(BoxTarget, name))

    def __post_init__(self) -> None:
        box = torch.as_tensor(self.box, dtype=torch.float32, device="cpu").detach()
        if box.shape != (4,):
            raise ValueError(f"box must have shape (4,), got {tuple(box.shape)}")
        if not bool(torch.isfinite(box).all()) or bool((box[2:] < box[:2]).any()):
            raise ValueError(f"box must be finite xyxy with x1 <= x2 and y1 <= y2, got {box.tolist()}")
        if isinstance(self.label, Tensor):
            object.__setattr__(self, "label", int(self.label))
        if isinstance(self.label, bool) or not isinstance(self.label, int) or self.label < 0:
            raise ValueError(f"label must be a class number, got {self.label!r}")
        if not 0 <= self.reach <= 1:
            raise ValueError(f"reach must be an IoU in [0, 1], got {self.reach}")
        object.__setattr__(self, "box", tuple(box.tolist()))

    @classmethod
    def of(cls, detections: Detections, **settings: Any) -> list[Any]:
        """One target for each detection.

        >>> found = Detections([[0, 0, 8, 8], [2, 2, 9, 9]], [0.9, 0.8], [1, 2])
        >>> from detxai.targets import ClassScoreTarget
        >>> [target.label for target in ClassScoreTarget.of(found)]
        [1, 2]
        """
        return ask_about(detections, partial(cls, **settings))

    def __call__(self, output: Any) -> Tensor:
        """The scalar for one image, from what a detector returned for it."""
        candidates = Candidates.from_output(output)
        if len(candidates) != 1:
            raise ValueError(f"a target scores one image, got {len(candidates)}; use score_targets for a batch")
        return score_targets([self], candidates)[0, 0]

    @classmethod
    @abstractmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        """The scalars (T, B) of T targets of this class, for B images with at least one candidate."""


def ask_about(detections: Detections, question: Callable[[Any, int], T]) -> list[T]:
    """One target for each detection: ``question`` called with its box (four numbers) and its label."""
    pairs = zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True)
    return [question(box, label) for box, label in pairs]


def score_targets(targets: Sequence[Target], candidates: Candidates) -> Tensor:
    """The score of every target for every image of a batch.

    Targets of one ``BoxTarget`` class are scored together, without a loop over images or targets; any other callable
    is called image by image.

    Args:
        targets: T targets.
        candidates: of B images.

    Returns:
        (T, B), differentiable; 0 where an image has no candidates.

    Raises:
        ValueError: a target's label is not one of the detector's.
    """
    rows: dict[int, Tensor] = {}
    classes: dict[type, list[int]] = {}
    for place, target in enumerate(targets):
        if isinstance(target, BoxTarget):
            classes.setdefault(type(target), []).append(place)
        else:
            rows[place] = torch.stack([target(one).reshape(()) for one in candidates])
    for kind, places in classes.items():
        answers = _score_class(kind, [targets[place] for place in places], candidates)
        rows.update(zip(places, answers, strict=True))
    if not rows:
        return candidates.objectness.new_zeros(0, len(candidates))
    return torch.stack([rows[place] for place in range(len(targets))])


def _score_class(kind: Any, targets: Sequence[Any], candidates: Candidates) -> Tensor:
    if candidates.boxes.shape[1] == 0:  # keep the graph: a constant zero would have no gradient
        return candidates.class_scores.sum((1, 2)).expand(len(targets), -1) * 0
    answers: Tensor = kind.score(targets, match_candidates(targets, candidates), candidates)
    return answers


def match_candidates(targets: Sequence[BoxTarget], candidates: Candidates) -> Match:
    """How every candidate of every image relates to every target."""
    like = candidates.boxes
    box = like.new_tensor([target.box for target in targets])[:, None, None]
    labels = torch.tensor([target.label for target in targets])
    boxes, score = candidates.of_labels(labels)
    iou = _with_mean_slopes(box_iou(box, boxes), box, boxes)
    within_reach = torch.ones_like(iou, dtype=torch.bool)
    if candidates.proposals is not None:
        reach = like.new_tensor([target.reach for target in targets])[:, None, None]
        within_reach = (box_iou(box, candidates.proposals) >= reach) | (reach == 0)
    return Match(iou * within_reach, score * within_reach, boxes.expand(len(targets), -1, -1, -1), within_reach)


def _with_mean_slopes(iou: Tensor, box: Tensor, boxes: Tensor) -> Tensor:
    """The same IoUs; where a candidate's side equals the target's, with the mean of the slopes to both sides.

    At the detected box itself, the IoU is 1 and falls in both directions: which of the two one-sided slopes the
    gradient had would depend on rounding. Their mean is 0 there, so that to first order the score depends on the class
    alone.
    """
    if not iou.requires_grad:
        return iou
    sides = box[..., 2:] - box[..., :2]
    near = ROUNDING * torch.cat([sides, sides], -1)
    with torch.no_grad():
        to_own = torch.where((boxes - box).abs() <= near, box - boxes, 0)
    even = box_iou(box, boxes + to_own)  # torch halves the gradient of the larger of two equals
    return even + (iou - even).detach()


def best_candidates(targets: Sequence[BoxTarget], candidates: Candidates) -> Tensor:
    """(T,) the index of the candidate that each target's box came from: the one with the highest ``IoU * p(label)``."""
    match = match_candidates(targets, candidates)
    return (match.iou * match.score).flatten(1).argmax(1)
