"""Why this class and not the other: the difference of two class scores of a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.detections import Candidates, Detections
from detxai.targets.target import AnsweredBy, BoxTarget, Match, best_candidates


@dataclass(frozen=True)
class ContrastTarget(BoxTarget):
    """The score of this class minus that of another: why this class, and not the one it is confused with?

    ``score = IoU(box, box_j) * (p_j(label) - p_j(other))`` of the candidate j with the highest ``IoU * p(label)``; 0
    where nothing of that class overlaps the box. What raises both classes alike, such as an object at all, cancels.
    The score is negative where the other class is more likely.

    The candidate is that of ``ClassScoreTarget``, not the one of the largest difference: a candidate far away has a
    difference of about 0, and would hide every negative one.

    Args:
        other: the class that ``label`` is compared with; default: the likeliest other class of the same candidate, in
            each perturbed image anew. ``seen_in`` fixes it to the runner-up in the original image, so that the two
            classes are always the same.

    Detections have one class each, so for them ``p_j(other)`` is 0.

    Source: detxai's own, after contrastive explanations of classifiers, which take the difference of two logits; here
    scores, which are what a detector ranks and suppresses by.

    >>> found = Candidates(torch.tensor([[[[0.0, 0.0, 10.0, 10.0]]]]), torch.tensor([[[0.7, 0.1, 0.2]]]),
    ...                    torch.tensor([[0.7]]), torch.tensor([1, 2, 3]))
    >>> ContrastTarget([0, 0, 10, 5], label=1, other=2)(found), ContrastTarget([0, 0, 10, 5], label=1)(found)
    (tensor(0.3000), tensor(0.2500))
    """

    answered_by: ClassVar[AnsweredBy] = "highest class score"
    reads_all_classes: ClassVar[bool] = True
    ignores_reach: ClassVar[bool] = False

    other: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.other, Tensor):
            object.__setattr__(self, "other", int(self.other))
        if self.other is None:
            return
        if isinstance(self.other, bool) or not isinstance(self.other, int) or self.other < 0:
            raise ValueError(f"other must be a class number or None, got {self.other!r}")
        if self.other == self.label:
            raise ValueError(f"other must be another class than label, got {self.label} for both")

    @classmethod
    def seen_in(cls, candidates: Candidates, detections: Detections, **settings: Any) -> list[ContrastTarget]:
        """One target for each detection, against the runner-up of the candidate that it came from.

        Args:
            candidates: of one image, the one that the detections are of. Where they are detections, or the detector
                has one class alone, no runner-up is known and ``other`` stays None.
            detections: N of them.
            settings: further arguments of the target.
        """
        plain = cls.of(detections, **settings)
        if candidates.final or candidates.boxes.shape[1] == 0 or len(candidates.labels) < 2 or not plain:
            return plain
        vectors = candidates.class_scores[0, best_candidates(plain, candidates)].detach().cpu()
        own = candidates.labels == torch.tensor([target.label for target in plain])[:, None]
        rivals = candidates.labels[vectors.masked_fill(own, -1).argmax(1)].tolist()
        return [replace(target, other=rival) for target, rival in zip(plain, rivals, strict=True)]

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        quality, best = (match.iou * match.score).max(-1, keepdim=True)
        images = torch.arange(len(candidates), device=best.device)
        vectors = candidates.class_scores[images, best.squeeze(-1)]  # (T, B, C)
        rivals = torch.stack([_rivals(target, candidates) for target in targets]).to(vectors.device)
        rival = vectors.masked_fill(~rivals[:, None], 0).amax(-1, keepdim=True)
        contrast = match.iou.gather(-1, best) * (match.score.gather(-1, best) - rival)
        return (contrast * (quality > 0)).squeeze(-1)


def _rivals(target: ContrastTarget, candidates: Candidates) -> Tensor:
    """(C,) bool, the classes that the target's own is compared with."""
    if target.other is None:
        return candidates.labels != target.label
    rivals = candidates.labels == target.other
    if not candidates.final and not bool(rivals.any()):
        raise ValueError(f"other must be one of the detector's {len(rivals)} classes, got {target.other}")
    return rivals
