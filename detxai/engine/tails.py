"""The quickest exact tail for what an adapter says of its network."""

from __future__ import annotations

from collections.abc import Sequence

from detxai.adapters.adapter import Adapter, Features
from detxai.adapters.structure import Dense, TwoStage
from detxai.engine.ablation import FullTail, Tail
from detxai.engine.dense import DenseTail
from detxai.engine.two_stage import TwoStageTail
from detxai.targets import Target


def tail_of(detector: Adapter, features: Features, targets: Sequence[Target]) -> Tail:
    """The tail behind ``features`` for these targets."""
    structure = detector.structure(features)
    if isinstance(structure, TwoStage):
        return TwoStageTail(structure, features.levels, targets)
    if isinstance(structure, Dense):
        return DenseTail(structure, targets)
    return FullTail(detector, features, targets)
