"""The class score of a box: the default question of most methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from detxai.detections import Candidates
from detxai.targets.target import AnsweredBy, BoxTarget, Match


@dataclass(frozen=True)
class ClassScoreTarget(BoxTarget):
    """How well the detector still finds this box as this class: the default target.

    ``score = max_j IoU(box, box_j) * p_j(label)`` over all candidates: no threshold, so no cliff.

    Source: the score of Visual Precision Search (Chen et al., 2025, CVPR), over candidates before
    non-maximum suppression and within ``reach``.

    >>> found = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "scores": torch.tensor([0.9]),
    ...          "labels": torch.tensor([3])}
    >>> ClassScoreTarget([0, 0, 10, 5], label=3)(found)
    tensor(0.4500)
    """

    answered_by: ClassVar[AnsweredBy] = "highest score"
    reads_all_classes: ClassVar[bool] = False
    ignores_reach: ClassVar[bool] = False

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        return (match.iou * match.score).amax(-1)
