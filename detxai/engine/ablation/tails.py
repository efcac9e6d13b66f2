"""The quickest tail for what an adapter says of its network: an exact one, and a cheap one that predicts it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.adapters.structure import Dense, NoShortcut, TwoStage
from detxai.engine.ablation.dense.tail import DenseTail
from detxai.engine.ablation.dense.tracked import TrackedDense
from detxai.engine.ablation.loop import FullTail, GroupedTail, Tail
from detxai.engine.ablation.quality_targets import probes_of
from detxai.engine.ablation.two_stage.screened import ScreenedTwoStage
from detxai.engine.ablation.two_stage.tail import TwoStageTail
from detxai.engine.ablation.two_stage.tracked import TrackedTwoStage
from detxai.targets import Target

log = logging.getLogger(__name__)
_said: WeakKeyDictionary[NetworkDetector, set[str]] = WeakKeyDictionary()


def tail_of(detector: NetworkDetector, features: Features, targets: Sequence[Target]) -> Tail:
    """The tail behind ``features`` for these targets: the quickest that is exact for this very network."""
    structure = detector.structure(features)
    if isinstance(structure, TwoStage) and probes_of(targets) is None:
        # which may count the candidates, or look at those that the shortcuts leave out
        structure = NoShortcut("the target may read any candidate (BoxTarget says what it can declare)")
    if isinstance(structure, NoShortcut):
        warn_once(detector, f"{structure.reason}: ablations take the full tail, which is exact and slower")
        return FullTail(detector, features, targets, structure.reason)
    if isinstance(structure, TwoStage):
        return TwoStageTail(structure, features.levels, targets)
    if isinstance(structure, Dense):
        return DenseTail(structure, targets)
    return FullTail(detector, features, targets)


def tail_of_groups(detector: NetworkDetector, groups: Sequence[Features], targets: Sequence[Target]) -> Tail:
    """The tail behind several groups of layers of one image, each ablated by itself with the others computed anew."""
    tails = [tail_of(detector, group, targets) for group in groups]
    if len(tails) == 1:
        return tails[0]
    return GroupedTail({name: tail for group, tail in zip(groups, tails, strict=True) for name in group.levels})


def warn_once(detector: NetworkDetector, message: str) -> None:
    """Log a warning, once for each detector."""
    said = _said.setdefault(detector, set())
    if message not in said:
        said.add(message)
        log.warning(message)


def tracked(tail: Tail) -> Tail | None:
    """The tail that follows only the candidates by which the targets are answered now.

    None where the adapter does not describe its network, or a target may look at any candidate.
    """
    if isinstance(tail, GroupedTail):
        followers = {level: tracked(part) for level, part in tail.tails.items()}
        found = {level: follower for level, follower in followers.items() if follower is not None}
        return GroupedTail(found) if len(found) == len(followers) else None
    if isinstance(tail, DenseTail):
        if tail.qualities is None or not all(map(tail.in_parts, tail.structure.levels)):
            return None  # following one cell would take as long as following all
        return TrackedDense(tail, tail.qualities)
    if isinstance(tail, TwoStageTail):
        probes = probes_of(tail.targets)
        return None if probes is None else TrackedTwoStage(tail, probes)
    return None


def screened(tail: Tail, margin: float) -> Tail:
    """The tail that looks only at proposals expected near the best; the exact one where none moves.

    Exact too where a target may look at any candidate.
    """
    if isinstance(tail, GroupedTail):
        return GroupedTail({level: screened(part, margin) for level, part in tail.tails.items()})
    if not isinstance(tail, TwoStageTail):
        return tail
    probes = probes_of(tail.targets)
    return tail if probes is None else ScreenedTwoStage(tail, probes, margin)
