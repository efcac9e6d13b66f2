"""A one-stage detector under ablation, of which only the cells that answer the targets are followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from detxai.engine.ablation.dense.tail import DenseTail, Plan
from detxai.engine.ablation.dense.windows import Window, merged
from detxai.targets import score_targets

MOST = 3  # cells followed for a target


class TrackedDense:
    """The tail of a one-stage detector, as far as the few cells go that answer the targets.

    Not exact, and cheap: the cells with each target's best candidates are followed through every ablation, as if no
    other of their level could become the best.

    Args:
        tail: the exact one; its targets are answered by one candidate each.
    """

    cpu_most = 32
    details: ClassVar[Mapping[str, str]] = {"kind": "one-stage, tracked"}

    def __init__(self, tail: DenseTail, qualities: Tensor) -> None:
        self.tail = tail
        self.clean = tail.clean
        best = qualities.topk(min(MOST, qualities.shape[1]), 1).indices.unique()
        self._plans = {name: self._plan(name, best) for name in tail.structure.levels}

    def bytes_each(self, level: str) -> int:
        return self.tail.bytes_each(level)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        return score_targets(self.tail.targets, self.tail.candidates(level, self._plans[level], channels, fill))

    def _plan(self, level: str, best: Tensor) -> Plan:
        (start, end), width = self.tail.span[level], self.tail.structure.levels[level].shape[-1]
        here = best[(best >= start) & (best < end)] - start
        cells = (here // self.tail.structure.per_cell(level)).unique().tolist()
        windows = merged([Window(c // width, c // width + 1, c % width, c % width + 1) for c in cells])
        none = torch.zeros_like(self.clean)
        return Plan(windows, None, none, none, is_last=True)
