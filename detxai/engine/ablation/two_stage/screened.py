"""A two-stage detector under ablation, without the moved proposals that are not expected to answer a target."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.two_stage.ablation import LevelAblation, TwoStageAblation
from detxai.targets import Target


class ScreenedTwoStage(Tail):
    """The tail of a two-stage detector that scores only those moved proposals that may come near the best.

    A proposal is expected to be worth what its anchor's proposal was worth in the clean pass. First those are scored
    that come near the best of the clean pass; then those that come near the best that is left. Proposals whose anchors
    had none in the clean pass are always scored. The answer is wrong only where an ablation makes a proposal that was
    far from the best better than all that were near it.

    Args:
        ablation: of the detector.
        quality_targets: T targets of the same boxes, whose score is a candidate's quality.
        margin: in [0, 1]: near the best is what has at least ``1 - margin`` of its quality.
    """

    cpu_batch = 16

    def __init__(self, ablation: TwoStageAblation, quality_targets: list[Target], margin: float) -> None:
        self.ablation, self.quality_targets, self.margin = ablation, quality_targets, margin
        self.details = {"kind": "two-stage, screened"}
        self.clean = ablation.clean
        levels = list(ablation.clean_levels)
        self._expected = {level: self._expected_of_anchors(level) for level in levels}
        qualities = [ablation.qualities(quality_targets, ablation.best_outputs(level)) for level in levels]
        none = self.clean.new_zeros(len(quality_targets), 1)
        self._clean_best = torch.cat([*qualities, none], 1).amax(1, keepdim=True)

    def bytes_per_item(self, level: str) -> int:
        return self.ablation.bytes_per_item(level)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        ablation, batch, wanted = self.ablation, len(channels), self.quality_targets
        ablated = ablation.ablate(level, channels, fill)
        best = ablation.score(ablated.fixed, batch, wanted)
        near_clean_best = self._near(ablated, best.maximum(self._clean_best))
        first = ablation.score_moved(ablated, near_clean_best)
        best = best.maximum(ablation.score(first, batch, wanted))
        second = ablation.score_moved(ablated, self._near(ablated, best) & ~near_clean_best)
        if wanted == list(ablation.targets):  # the score is the quality
            return best.maximum(ablation.score(second, batch))
        return ablation.score([*ablated.fixed, *first, *second], batch)

    def _near(self, ablated: LevelAblation, best: Tensor) -> Tensor:
        """(R,) bool, which moved proposals are expected near the best quality (T, B) of their ablation."""
        anchors = ablated.proposals.anchors[ablated.row, ablated.column]
        expected = self._expected[ablated.level][:, anchors]
        return (expected >= (1 - self.margin) * best[:, ablated.row]).any(0)

    def _expected_of_anchors(self, level: str) -> Tensor:
        """(T, anchors) the quality of each anchor's proposal in the clean pass; inf where there was none in reach."""
        clean, proposals = self.ablation.clean_levels[level], self.ablation.proposals[level]
        expected = self.clean.new_full((len(self.quality_targets), len(proposals.anchors)), torch.inf)
        survives = proposals.clean.scores[0] > -torch.inf
        anchors = proposals.clean.anchors[0, survives][clean.in_reach]
        expected[:, anchors] = self.ablation.qualities(self.quality_targets, clean.outputs).to(expected.dtype)
        return expected
