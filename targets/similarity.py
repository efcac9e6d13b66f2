"""D-RISE's similarity: how alike a candidate and the detection are in place, class and objectness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.detections import Candidates, Detections
from detxai.targets.target import AnsweredBy, BoxTarget, Match, best_candidates


@dataclass(frozen=True)
class SimilarityTarget(BoxTarget):
    """D-RISE's target: the similarity of this detection to the most similar candidate.

    ``score = max_j IoU(box, box_j) * objectness_j * cos(P, P_j)`` over candidates, with P the class vectors.

    Args:
        class_scores: (C,) the detection's class vector P, in the order of ``Candidates.labels``; default: one-hot
            at ``label``, which is all that final detections tell.

    Where another class is more likely for a detection's candidate, the class vector asks about both classes; to ask
    about the detection's own class alone leave ``class_scores`` out, or use ``BoxScoreTarget``.

    Source: Petsiuk et al., 2021, D-RISE (CVPR). Class vectors leave the background out.

    >>> found = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "scores": torch.tensor([0.9]),
    ...          "labels": torch.tensor([3])}
    >>> SimilarityTarget([0, 0, 10, 5], label=3)(found)
    tensor(0.4500)
    """

    answered_by: ClassVar[AnsweredBy] = "highest score"
    ignores_reach: ClassVar[bool] = False

    class_scores: Sequence[float] | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_scores is not None:
            vector = torch.as_tensor(self.class_scores, dtype=torch.float32, device="cpu").detach()
            if vector.ndim != 1 or not bool(torch.isfinite(vector).all()) or bool((vector < 0).any()):
                raise ValueError(f"class_scores must be (C,) finite and not negative, got {tuple(vector.shape)}")
            object.__setattr__(self, "class_scores", tuple(vector.tolist()))

    @classmethod
    def seen_in(cls, candidates: Candidates, detections: Detections, **settings: Any) -> list[SimilarityTarget]:
        """One target for each detection, with the class vector of the candidate that it came from.

        That is the candidate of the largest ``IoU(box, box_j) * p_j(label)``. Where the candidates are detections,
        which have no class vectors, the targets have none either.

        Args:
            candidates: of one image, the one that the detections are of.
            detections: N of them.
            settings: further arguments of the target.
        """
        plain = cls.of(detections, **settings)
        if candidates.final or candidates.boxes.shape[1] == 0 or not plain:
            return plain
        vectors = candidates.class_scores[0, best_candidates(plain, candidates)].detach().cpu()
        return [replace(target, class_scores=vector) for target, vector in zip(plain, vectors, strict=True)]

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        wanted = candidates.class_scores.new_tensor([_class_vector(target, candidates) for target in targets])
        along = torch.einsum("tc,bnc->tbn", F.normalize(wanted, dim=-1), candidates.class_scores)
        squares = candidates.class_scores.square().sum(-1)  # ``norm`` is slow across strides
        length = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()  # clamped first: no NaN gradient at 0
        return (match.iou * along * (candidates.objectness / length)).amax(-1)


def _class_vector(target: SimilarityTarget, candidates: Candidates) -> Sequence[float]:
    if target.class_scores is None:
        return (candidates.labels == target.label).float().tolist()
    if len(target.class_scores) != len(candidates.labels):
        raise ValueError(f"class_scores must have shape ({len(candidates.labels)},), got ({len(target.class_scores)},)")
    return tuple(target.class_scores)
