"""From what a dense head's cells put out to the class scores of their candidates, for the labels that are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detxai.adapters.structure import Dense
from detxai.engine.ablation.quality_targets import labels_read
from detxai.targets import Target


class CellScores:
    """Which of a head's logits the targets need, and the class scores that come of them.

    Args:
        structure: of the detector.
        targets: T questions.

    Attributes:
        columns: (C,) which class scores are read; None where a target reads all classes, or one that there is not.
        labels: (C,) those classes' labels, on the CPU; None likewise.
    """

    def __init__(self, structure: Dense, targets: Sequence[Target]) -> None:
        self.structure, self.targets = structure, targets
        last = next(iter(structure.classes.values()))[-1].weight
        self.n_logits = structure.n_logits or len(last)
        self.first_label = structure.first_label
        n_classes = self.n_logits if structure.own_logits else self.n_logits - 1
        labels = labels_read(targets)
        known = labels is not None and self.first_label <= labels[0] and labels[-1] < self.first_label + n_classes
        self.columns = torch.tensor(labels, device=last.device) - self.first_label if known else None
        self.labels = None if self.columns is None else self.columns.cpu() + self.first_label

    def outputs(self, level: str) -> Tensor | None:
        """The outputs of the class branch that are needed; None: all."""
        if self.columns is None or not self.structure.own_logits:
            return None
        starts = torch.arange(self.structure.per_cell(level), device=self.columns.device) * self.n_logits
        return (starts[:, None] + self.columns).flatten()

    def of_candidates(self, level: str, logits: Tensor, numbers: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Class scores (B, n A, C) from logits (B, A K, n) and numbers (B, A D, n); None: the highest of any."""
        logits = logits.to(dtype)
        if self.structure.scores is None:
            return logits.sigmoid().transpose(1, 2)
        n = self.structure.per_cell(level)
        scores = self.structure.scores(candidates_of(logits, n), None if numbers is None else candidates_of(numbers, n))
        if self.structure.own_logits or self.columns is None:
            return scores
        return scores[..., self.columns]

    def objectness(self, scores: Tensor) -> Tensor:
        """(B, m) of class scores (B, m, C); of a selection of classes, no target reads it."""
        return scores.amax(-1) if self.structure.own_logits else scores.sum(-1)

    def highest(self, level: str, logits: Tensor) -> Tensor:
        """(T, B, n) from logits (B, A K, n): the most that each target can take a cell's scores for."""
        if self.structure.scores is None:
            scores = (logits.amax(1, keepdim=True) if self.columns is None else logits).sigmoid()
        else:
            scores = self.of_candidates(level, logits, None, logits.dtype)
            scores = scores.unflatten(1, (-1, self.structure.per_cell(level))).amax(2).transpose(1, 2)
            scores = scores.amax(1, keepdim=True) if self.columns is None else scores
        if self.columns is None:
            return scores[:, 0].expand(len(self.targets), -1, -1)
        labels = torch.tensor([target.label for target in self.targets])  # type: ignore[attr-defined]
        return scores[:, torch.searchsorted(self.columns, labels - self.first_label)].transpose(0, 1)


def candidates_of(outputs: Tensor, per_cell: int) -> Tensor:
    """A branch's outputs (B, A D, n) of cells, as (B, n A, D) of their candidates."""
    return outputs.unflatten(1, (per_cell, -1)).permute(0, 3, 1, 2).flatten(1, 2)
