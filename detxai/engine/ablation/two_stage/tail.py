"""The exact tail of a two-stage detector, and the way to its approximations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from detxai.adapters.detector import Features
from detxai.adapters.structure import NoShortcut, TwoStage
from detxai.engine.ablation.quality_targets import quality_targets_for
from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.two_stage.ablation import TwoStageAblation
from detxai.engine.ablation.two_stage.screened import ScreenedTwoStage
from detxai.engine.ablation.two_stage.tracked import TrackedTwoStage
from detxai.targets import Target


class TwoStageTail(Tail):
    """The tail of a two-stage detector behind its pyramid.

    Exact, for targets that read no candidate beyond their reach: everything that an ablation can change is computed
    again, and nothing else.
    """

    cpu_batch = 16

    def __init__(self, structure: TwoStage, levels: Mapping[str, Tensor], targets: Sequence[Target]) -> None:
        self.ablation = TwoStageAblation(structure, levels, targets)
        self.details = {"kind": "two-stage"}
        self.clean = self.ablation.clean

    def bytes_per_item(self, level: str) -> int:
        return self.ablation.bytes_per_item(level)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        ablated = self.ablation.ablate(level, channels, fill)
        return self.ablation.score([*ablated.fixed, *self.ablation.score_moved(ablated)], len(channels))

    def approximate(self) -> Tail | None:
        wanted = quality_targets_for(self.ablation.targets)
        return None if wanted is None else TrackedTwoStage(self.ablation, wanted)

    def screened(self, margin: float) -> Tail:
        wanted = quality_targets_for(self.ablation.targets)
        return self if wanted is None else ScreenedTwoStage(self.ablation, wanted, margin)


def two_stage_tail(structure: TwoStage, features: Features, targets: Sequence[Target]) -> Tail | NoShortcut:
    """The row of the table of tails: the exact tail, or why there is none for these targets."""
    if quality_targets_for(targets) is None:
        # which may count the candidates, or read those that the shortcuts leave out
        return NoShortcut("the target may read any candidate (BoxTarget says what it can declare)")
    return TwoStageTail(structure, features.levels, targets)
