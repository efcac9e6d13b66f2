"""Where one side of a box lies: which pixels push it outwards or inwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from detxai.detections import Candidates
from detxai.targets.target import AnsweredBy, BoxTarget, Match

Side = Literal["left", "top", "right", "bottom"]


@dataclass(frozen=True)
class BoxSideTarget(BoxTarget):
    """The position of one side of the box: what made the box end here?

    ``score`` = the coordinate, in pixels of the original image, of that side of the candidate with the highest
    ``IoU * p(label)``; 0 where nothing of that class overlaps the box.

    Args:
        side: ``"left"`` (x1), ``"top"`` (y1), ``"right"`` (x2) or ``"bottom"`` (y2).

    Source: Zhao et al., 2023, ODAM (ICLR): one map for each predicted attribute.

    >>> found = {"boxes": torch.tensor([[1.0, 2.0, 10.0, 12.0]]), "scores": torch.tensor([0.9]),
    ...          "labels": torch.tensor([3])}
    >>> BoxSideTarget([0, 0, 10, 10], label=3, side="bottom")(found)
    tensor(12.)
    """

    answered_by: ClassVar[AnsweredBy] = "highest class score"
    reads_all_classes: ClassVar[bool] = False
    ignores_reach: ClassVar[bool] = False

    side: Side = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in get_args(Side):
            raise ValueError(f"side must be one of {list(get_args(Side))}, got {self.side!r}")

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        sides = torch.tensor([get_args(Side).index(target.side) for target in targets], device=match.iou.device)
        coordinate = match.boxes.gather(-1, sides[:, None, None, None].expand(*match.iou.shape, 1)).squeeze(-1)
        best_quality, best = (match.iou * match.score).max(-1, keepdim=True)
        return (coordinate.gather(-1, best) * (best_quality > 0)).squeeze(-1)
