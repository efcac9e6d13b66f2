"""Which candidate answers a target: the one of highest quality, a number that each candidate has by itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detxai.detections import Candidates
from detxai.targets import BoxTarget, ClassScoreTarget, Target, score_targets


def quality_targets_for(targets: Sequence[Target]) -> list[Target] | None:
    """For each target, one of the same box that scores a candidate's quality; None where one may read any candidate."""
    found = [_quality_target(target) for target in targets]
    known = [target for target in found if target is not None]
    return known if known and len(known) == len(found) else None


def _quality_target(target: Target) -> Target | None:
    if not isinstance(target, BoxTarget) or target.answered_by == "any candidates":
        return None
    if target.answered_by == "highest score":
        return target
    return ClassScoreTarget(target.box, target.label, 0.0 if target.ignores_reach else target.reach)


def labels_read(targets: Sequence[Target]) -> list[int] | None:
    """The labels whose scores and boxes the targets read, ascending; None where that may be any."""
    if quality_targets_for(targets) is None:
        return None
    boxes = [target for target in targets if isinstance(target, BoxTarget)]
    return None if any(target.reads_all_classes for target in boxes) else sorted({target.label for target in boxes})


def candidate_qualities(quality_targets: Sequence[Target], candidates: Candidates) -> Tensor:
    """(T, N) the quality of every candidate of one image: each is scored as if it were the only one."""
    alone = Candidates(
        candidates.boxes.transpose(0, 1),
        candidates.class_scores.transpose(0, 1),
        candidates.objectness.transpose(0, 1),
        candidates.labels,
        None if candidates.proposals is None else candidates.proposals.transpose(0, 1),
    )
    return score_targets(quality_targets, alone)
