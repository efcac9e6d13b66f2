from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.detections import Candidates
from detxai.targets.target import BoxTarget, Match


@dataclass(frozen=True)
class SimilarityTarget(BoxTarget):
    """D-RISE's question: how similar is anything the detector sees to this detection?

    ``score = max_j IoU(box, box_j) * objectness_j * cos(P, P_j)`` over candidates, with P the class vectors.

    Args:
        class_scores: (C,) the detection's class vector P, in the order of ``Candidates.labels``; default: one-hot
            at ``label``, which is all that a detector's final answer tells.

    Source: Petsiuk et al., 2021, D-RISE (CVPR). Class vectors leave the background out.

    >>> found = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "scores": torch.tensor([0.9]),
    ...          "labels": torch.tensor([3])}
    >>> SimilarityTarget([0, 0, 10, 5], label=3)(found)
    tensor(0.4500)
    """

    reads_all_classes: ClassVar[bool] = True

    class_scores: Sequence[float] | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_scores is not None:
            vector = torch.as_tensor(self.class_scores, dtype=torch.float32).detach().cpu()
            if vector.ndim != 1 or not bool(torch.isfinite(vector).all()) or bool((vector < 0).any()):
                raise ValueError(f"class_scores must be (C,) finite and not negative, got {tuple(vector.shape)}")
            object.__setattr__(self, "class_scores", tuple(vector.tolist()))

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        wanted = torch.stack([_class_vector(target, candidates) for target in targets])
        cosine = torch.einsum("tc,bnc->tbn", F.normalize(wanted, dim=-1), F.normalize(candidates.class_scores, dim=-1))
        return (match.iou * candidates.objectness * cosine).amax(-1)


def _class_vector(target: SimilarityTarget, candidates: Candidates) -> Tensor:
    like = candidates.class_scores
    if target.class_scores is None:
        return (candidates.labels == target.label).to(like.dtype)
    if len(target.class_scores) != like.shape[2]:
        raise ValueError(f"class_scores must have shape ({like.shape[2]},), got ({len(target.class_scores)},)")
    return like.new_tensor(target.class_scores)
