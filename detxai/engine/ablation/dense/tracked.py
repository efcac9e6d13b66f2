"""A one-stage detector under ablation, following only the cells that answer the targets."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.ablation.dense.ablation import DenseAblation, Plan
from detxai.engine.ablation.dense.windows import Window, merged
from detxai.engine.ablation.tail import Tail
from detxai.targets import score_targets

MAX_TRACKED = 3  # cells followed for each target


class TrackedDense(Tail):
    """The tail of a one-stage detector, as far as the few cells go that answer the targets.

    Not exact, and cheap: the cells with each target's best candidates are followed through every ablation, as if no
    other cell of their level could become the best.

    Args:
        ablation: of the detector; its targets are answered by one candidate each.
        qualities: (T, N) of the clean candidates.
    """

    cpu_batch = 32

    def __init__(self, ablation: DenseAblation, qualities: Tensor) -> None:
        self.ablation = ablation
        self.details = {"kind": "one-stage, tracked"}
        self.clean = ablation.clean
        best = qualities.topk(min(MAX_TRACKED, qualities.shape[1]), 1).indices.unique()
        self._plans = {name: self._plan(name, best) for name in ablation.structure.levels}

    def bytes_per_item(self, level: str) -> int:
        return self.ablation.bytes_per_item(level, self._plans[level].n_cells)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        candidates = self.ablation.candidates(level, self._plans[level], channels, fill)
        return score_targets(self.ablation.targets, candidates)

    def _plan(self, level: str, best: Tensor) -> Plan:
        """Only the cells whose candidates are among ``best`` (n,)."""
        (start, end), width = self.ablation.span[level], self.ablation.structure.levels[level].shape[-1]
        here = best[(best >= start) & (best < end)] - start
        cells = (here // self.ablation.structure.per_cell(level)).unique().tolist()
        windows = merged([Window(c // width, c // width + 1, c % width, c % width + 1) for c in cells])
        none = torch.zeros_like(self.clean)
        return Plan(windows, None, none, none, is_exhaustive=True)
