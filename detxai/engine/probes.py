"""Which candidate answers a target: the one of highest quality."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detxai.detections import Candidates
from detxai.targets import (
    BoxScoreTarget,
    BoxSideTarget,
    BoxTarget,
    ClassScoreTarget,
    SimilarityTarget,
    Target,
    score_targets,
)

# For these the answer is that of one candidate: the one with the highest quality, which is no more than its IoU.
BY_QUALITY = (ClassScoreTarget, SimilarityTarget)  # their score is the quality
BY_BEST = (BoxScoreTarget, BoxSideTarget)  # theirs is read off the candidate of highest IoU * p(label)
ANSWERED_BY_ONE = (*BY_QUALITY, *BY_BEST)


def probes_of(targets: Sequence[Target]) -> list[Target] | None:
    """For each target, one of the same box whose score is the quality; None where a target may need any candidate."""
    probes: list[Target] = []
    for target in targets:
        if type(target) in BY_QUALITY:
            probes.append(target)
        elif type(target) in BY_BEST and isinstance(target, BoxTarget):
            probes.append(ClassScoreTarget(target.box, target.label, target.reach))
        else:
            return None
    return probes or None


def qualities_of(probes: Sequence[Target], candidates: Candidates) -> Tensor:
    """(T, N) of every candidate of one image: each is asked about as if it were alone."""
    alone = Candidates(
        candidates.boxes.transpose(0, 1),
        candidates.class_scores.transpose(0, 1),
        candidates.objectness.transpose(0, 1),
        candidates.labels,
        None if candidates.proposals is None else candidates.proposals.transpose(0, 1),
    )
    return score_targets(probes, alone)
