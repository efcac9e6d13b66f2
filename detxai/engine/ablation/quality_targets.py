"""Which candidate answers a target: the one of highest quality."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detxai.detections import Candidates
from detxai.targets import BoxTarget, ClassScoreTarget, Target, score_targets


def probes_of(targets: Sequence[Target]) -> list[Target] | None:
    """For each target, one of the same box whose score is the quality; None where a target may need any candidate."""
    probes = [_probe(target) for target in targets]
    found = [probe for probe in probes if probe is not None]
    return found if found and len(found) == len(probes) else None


def _probe(target: Target) -> Target | None:
    if not isinstance(target, BoxTarget) or target.answered_by == "any candidates":
        return None
    if target.answered_by == "highest score":
        return target
    return ClassScoreTarget(target.box, target.label, 0.0 if target.ignores_reach else target.reach)


def labels_read(targets: Sequence[Target]) -> list[int] | None:
    """The labels whose scores and boxes the targets read, ascending; None where that may be any."""
    if probes_of(targets) is None:
        return None
    boxes = [target for target in targets if isinstance(target, BoxTarget)]
    return None if any(target.reads_all_classes for target in boxes) else sorted({target.label for target in boxes})


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
