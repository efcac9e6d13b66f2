"""IoU plus class score of the best match of a box: grad-cam's Faster R-CNN target, mended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from detxai.detections import Candidates
from detxai.targets.target import AnsweredBy, BoxTarget, Match


@dataclass(frozen=True)
class BoxScoreTarget(BoxTarget):
    """grad-cam's Faster R-CNN target with its defects repaired: IoU plus score of the best match of the same class.

    ``score = IoU(box, box_j) + p_j(label)`` of the best match j, 0 where nothing of that class overlaps the box. Among
    detections the best match is the one that overlaps most. Candidates overlap one another in large numbers and each
    have a score for every class, so among them it is the one with the highest ``IoU * p(label)``.

    Differs from grad-cam's ``FasterRCNNBoxScoreTarget``: a box of another class is never the match (there, the
    nearest box of any class is taken and then found to have the wrong label, which gives 0); one box a target (there,
    a sum over boxes); and no threshold at an IoU of 0.5, where the score jumps.

    >>> found = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]]),
    ...          "scores": torch.tensor([0.9, 0.2]), "labels": torch.tensor([3, 7])}
    >>> BoxScoreTarget([0, 0, 10, 5], label=3)(found)
    tensor(1.4000)
    """

    answered_by: ClassVar[AnsweredBy] = "highest class score"
    reads_all_classes: ClassVar[bool] = False
    ignores_reach: ClassVar[bool] = False

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        quality = match.iou * match.score
        if candidates.final:
            quality = match.iou * (match.score > 0)
        best = quality.argmax(-1, keepdim=True)
        total = (match.iou + match.score).gather(-1, best)
        return (total * (quality.gather(-1, best) > 0)).squeeze(-1)
