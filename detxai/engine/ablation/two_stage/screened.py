"""A two-stage detector under ablation, of which only the proposals that may come near the best are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from detxai.engine.ablation.two_stage.tail import Ablated, TwoStageTail
from detxai.targets import Target


class ScreenedTwoStage:
    """The tail of a two-stage detector, without a look at moved proposals that nobody expects to answer a target.

    What is expected of a proposal is what its anchor's was worth in the clean pass. First those are looked at that
    come near the best there was; then those that come near the best that is left. Proposals whose anchors had none in
    the clean pass are looked at always. Wrong only where an ablation makes a proposal that was far from the best
    better than all that were near it.

    Args:
        tail: the exact one.
        probes: T targets of the same boxes, whose score is a candidate's quality.
        margin: in [0, 1]: near the best is what has at least ``1 - margin`` of its quality.
    """

    cpu_most = 16
    details: ClassVar[Mapping[str, str]] = {"kind": "two-stage, screened"}

    def __init__(self, tail: TwoStageTail, probes: list[Target], margin: float) -> None:
        self.tail, self.probes, self.margin = tail, probes, margin
        self.clean = tail.clean
        self._expected = {level: self._of_anchors(level) for level in tail.looks}
        standing = [tail.qualities(probes, tail.standing(level)) for level in tail.looks]
        self._best = torch.cat([*standing, self.clean.new_zeros(len(probes), 1)], 1).amax(1, keepdim=True)

    def bytes_each(self, level: str) -> int:
        return self.tail.bytes_each(level)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        ablated, batch, probes = self.tail.ablated(level, channels, fill), len(channels), self.probes
        best = self.tail.answer(ablated.staying, batch, probes)
        chosen = self._within(ablated, best.maximum(self._best))
        first = self.tail.look(ablated, chosen)
        best = best.maximum(self.tail.answer(first, batch, probes))
        second = self.tail.look(ablated, self._within(ablated, best) & ~chosen)
        if probes == list(self.tail.targets):  # the score is the quality
            return best.maximum(self.tail.answer(second, batch))
        return self.tail.answer([*ablated.staying, *first, *second], batch)

    def _within(self, ablated: Ablated, best: Tensor) -> Tensor:
        """(R,) which moved proposals are expected near the best quality (T, B) of their ablation."""
        anchors = ablated.survivors.anchors[ablated.row, ablated.column]
        expected = self._expected[ablated.level][:, anchors]
        return (expected >= (1 - self.margin) * best[:, ablated.row]).any(0)

    def _of_anchors(self, level: str) -> Tensor:
        """(T, anchors) the quality of each anchor's proposal in the clean pass; inf where there was none in reach."""
        look, clean = self.tail.looks[level], self.tail.proposals[level].clean
        expected = self.clean.new_full((len(self.probes), len(self.tail.proposals[level].anchors)), torch.inf)
        anchors = clean.anchors[0, clean.scores[0] > -torch.inf][look.near]
        expected[:, anchors] = self.tail.qualities(self.probes, look.looked).to(expected.dtype)
        return expected
