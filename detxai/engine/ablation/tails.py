"""The table of tails by structure: the quickest exact tail for what an adapter says of its network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.adapters.structure import Dense, NoShortcut, TwoStage
from detxai.engine.ablation.dense.tail import dense_tail
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.two_stage.tail import two_stage_tail
from detxai.targets import Target

log = logging.getLogger(__name__)
_warned: WeakKeyDictionary[NetworkDetector, set[str]] = WeakKeyDictionary()

# by the type of an adapter's ``structure``: from it, features and targets to the exact tail, or why there is none
TAILS: dict[type, Callable[[Any, Features, Sequence[Target]], Tail | NoShortcut]] = {
    TwoStage: two_stage_tail,
    Dense: dense_tail,
    NoShortcut: lambda structure, features, targets: structure,
}


def tail_of(detector: NetworkDetector, features: Features, targets: Sequence[Target]) -> Tail:
    """The tail behind ``features`` for these targets: the quickest that is exact for this very network.

    Where the network has no shortcuts, that is the full tail, and the reason is logged once.
    """
    structure = detector.structure(features)
    if type(structure) not in TAILS:
        return FullTail(detector, features, targets)
    tail = TAILS[type(structure)](structure, features, targets)
    if isinstance(tail, NoShortcut):
        warn_once(detector, f"{tail.reason}: ablations take the full tail, which is exact and slower")
        return FullTail(detector, features, targets, tail.reason)
    return tail


def tail_of_groups(detector: NetworkDetector, groups: Sequence[Features], targets: Sequence[Target]) -> Tail:
    """The tail behind several groups of layers of one image, each ablated by itself with the others computed again."""
    tails = [tail_of(detector, group, targets) for group in groups]
    if len(tails) == 1:
        return tails[0]
    return GroupedTail({name: tail for group, tail in zip(groups, tails, strict=True) for name in group.levels})


class GroupedTail(Tail):
    """Several tails behind different layers of one detector, each with the layers of the others computed again.

    Args:
        tails: level -> the tail behind it.
    """

    def __init__(self, tails: Mapping[str, Tail]) -> None:
        self.tails = tails
        parts = list(tails.values())
        self.clean = parts[0].clean
        self.cpu_batch = min(part.cpu_batch for part in parts)
        details = [part.details for part in parts]
        # the slowest tail's, which has a reason
        self.details = next((each for each in details if "reason" in each), details[0])

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        return self.tails[level].scores(level, channels, fill)

    def bytes_per_item(self, level: str) -> int:
        return self.tails[level].bytes_per_item(level)

    def approximate(self) -> Tail | None:
        found = {level: tail.approximate() for level, tail in self.tails.items()}
        known = {level: tail for level, tail in found.items() if tail is not None}
        return GroupedTail(known) if len(known) == len(found) else None

    def screened(self, margin: float) -> Tail:
        return GroupedTail({level: tail.screened(margin) for level, tail in self.tails.items()})


def warn_once(detector: NetworkDetector, message: str) -> None:
    """Log a warning, once for each detector."""
    warned = _warned.setdefault(detector, set())
    if message not in warned:
        warned.add(message)
        log.warning(message)
