"""A one-stage detector with one channel ablated: what the exact tail and the tracked one compute with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.structure import Dense
from detxai.detections import Candidates
from detxai.engine.ablation.dense.branch import AblatedBranch
from detxai.engine.ablation.dense.cell_scores import CellScores
from detxai.engine.ablation.dense.windows import Window, highest_iou
from detxai.engine.ablation.padding import pad_rows
from detxai.engine.ablation.quality_targets import candidate_qualities, quality_targets_for
from detxai.geometry import box_iou
from detxai.targets import Target, score_targets

BOXES, CLASSES = 0, 1  # the two branches
FirstOutputs = dict[tuple[int, Window], Tensor]  # by branch and window, (B, outputs, cells)
SLACK = 1e-3  # relative: rounding may let a box end this much beyond its bound


@dataclass(frozen=True)
class Plan:
    """Which cells of a level to compute.

    Attributes:
        windows: they may share cells; they hold every cell that may give a target more than its ``skip_below``.
        first: the branch to compute for all of them; the other then only where it can still give more than
            ``skip_below``. None: both at once.
        skip_below: (T,) candidates of a quality up to this are skipped.
        retry_below: (T,) where no candidate reaches this, those skipped may matter, and a wider plan is needed.
        is_exhaustive: whether nothing that matters is skipped, whatever is reached.
    """

    windows: tuple[Window, ...]
    first: int | None
    skip_below: Tensor
    retry_below: Tensor
    is_exhaustive: bool

    @property
    def n_cells(self) -> int:
        return sum(window.n_cells for window in self.windows)


class DenseAblation:
    """A one-stage detector behind the levels that its head reads, any one channel of which can be ablated.

    An ablation changes the candidates of its own level only; of the other levels each target needs no more than the
    candidate of highest quality (IoU times score), from the clean pass.

    Args:
        structure: of the detector, for one image.
        targets: T questions.
    """

    def __init__(self, structure: Dense, targets: Sequence[Target]) -> None:
        self.structure, self.targets = structure, targets
        self.quality_targets = quality_targets_for(targets)
        self.class_scores = CellScores(structure, targets)
        self.branches = {name: self._branches_of(name) for name in structure.levels}
        counts = [level[0, 0].numel() * structure.per_cell(name) for name, level in structure.levels.items()]
        ends = torch.tensor(counts).cumsum(0).tolist()
        self.span = {name: (end - n, end) for name, n, end in zip(structure.levels, counts, ends)}
        self.clean_candidates = self._clean_candidates()
        self.clean = score_targets(targets, self.clean_candidates)[:, 0]
        self.qualities = (
            None if self.quality_targets is None else candidate_qualities(self.quality_targets, self.clean_candidates)
        )
        self._unablated: dict[str, tuple[Candidates, Candidates]] = {}
        self._iou_bounds: dict[str, Tensor] = {}

    def computes_cells_alone(self, level: str) -> bool:
        """Whether some cells of a level can be computed without the others."""
        return all(branch.cells_are_independent for branch in self.branches[level])

    def bytes_per_item(self, level: str, n_cells: int) -> int:
        """What the convolutions of one ablation hold while they compute so many cells."""
        width = max(branch.width for branch in self.branches[level])
        feature = self.structure.levels[level]
        return feature.element_size() * (16 * feature[0, 0].numel() + 6 * width * n_cells)

    # -- the clean pass, once ------------------------------------------------------------------------------------

    def _branches_of(self, name: str) -> tuple[AblatedBranch, AblatedBranch]:
        structure = self.structure
        level = structure.levels[name]
        return (
            AblatedBranch(structure.boxes[name], level),
            AblatedBranch(structure.classes[name], level, self.class_scores.outputs(name)),
        )

    def _clean_candidates(self) -> Candidates:
        parts = []
        for name, (boxes, classes) in self.branches.items():
            cells = torch.arange(boxes.clean.shape[-1], device=boxes.clean.device)
            parts.append(self._as_candidates(*self._decoded(name, boxes.clean, classes.clean, cells)))
        return Candidates.cat(parts)

    def _decoded(self, level: str, numbers: Tensor, logits: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, n A, 4) and class scores (B, n A, C) of cells (n,), from what the head puts out for them."""
        boxes = self.structure.decode(level, numbers, cells)
        return boxes, self.class_scores.of_candidates(level, logits, numbers, boxes.dtype)

    def _as_candidates(self, boxes: Tensor, scores: Tensor) -> Candidates:
        """From boxes (B, n, 4) and class scores (B, n, C)."""
        labels = self.class_scores.labels
        if labels is None:
            labels = torch.arange(scores.shape[2]) + self.structure.first_label
        return Candidates(boxes[:, :, None], scores, self.class_scores.objectness(scores), labels)

    def _unablated_levels(self, level: str) -> tuple[Candidates, Candidates]:
        """The candidates of the levels before and after ``level`` that a target can need."""
        if level not in self._unablated:
            start, end = self.span[level]
            if self.qualities is None:
                places = torch.arange(self.clean_candidates.boxes.shape[1], device=self.clean.device)
            else:
                others = self.qualities.clone()
                others[:, start:end] = -1
                places = others.argmax(1).unique()
            before, after = places[places < start], places[places >= end]
            self._unablated[level] = self.clean_candidates.select(before), self.clean_candidates.select(after)
        return self._unablated[level]

    # -- an ablation ---------------------------------------------------------------------------------------------

    def candidates(
        self, level: str, plan: Plan, channels: Tensor, fill: Tensor, computed: FirstOutputs | None = None
    ) -> Candidates:
        """What the targets can need of the candidates, with one channel changed, for each of B channels.

        Args:
            computed: outputs of the branch that comes first, of these channels by an earlier plan; those of this plan
                are added.
        """
        before, after = (others.repeat(len(channels)) for others in self._unablated_levels(level))
        if not plan.windows:
            return Candidates.cat([before, after])
        changes = [branch.channel_change(channels, fill) for branch in self.branches[level]]
        if plan.first is None:
            parts = [self._both_branches(level, window, channels, changes) for window in plan.windows]
        else:
            known = {} if computed is None else computed
            parts = [self._first_then_other(level, plan, channels, changes, known)]
        return Candidates.cat([before, *parts, after])

    def _both_branches(self, level: str, window: Window, channels: Tensor, changes: Sequence[Tensor]) -> Candidates:
        """The candidates of all cells of a window."""
        numbers, logits = (
            branch.output_in_window(channels, change, window)
            for branch, change in zip(self.branches[level], changes, strict=True)
        )
        cells = window.cells(self.structure.levels[level].shape[-1], numbers.device)
        return self._as_candidates(*self._decoded(level, numbers, logits, cells))

    def _first_then_other(
        self, level: str, plan: Plan, channels: Tensor, changes: Sequence[Tensor], computed: FirstOutputs
    ) -> Candidates:
        """The candidates of the plan's cells that can beat ``skip_below`` by what their first branch puts out."""
        found = [self._window_rows(level, window, plan, channels, changes, computed) for window in plan.windows]
        row, boxes, scores = (torch.cat(column) for column in zip(*found))
        order = row.argsort(stable=True)
        padded, _ = pad_rows(row[order], len(channels), boxes[order], scores[order])
        return self._as_candidates(*padded)

    def _window_rows(
        self,
        level: str,
        window: Window,
        plan: Plan,
        channels: Tensor,
        changes: Sequence[Tensor],
        computed: FirstOutputs,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a window's cells that can beat ``skip_below``: the ablation (m,), boxes (m, 4) and class scores (m, C)."""
        box_branch, class_branch = self.branches[level]
        cells = window.cells(self.structure.levels[level].shape[-1], channels.device)
        assert plan.first is not None
        if (plan.first, window) not in computed:
            branch = self.branches[level][plan.first]
            computed[plan.first, window] = branch.output_in_window(channels, changes[plan.first], window)
        if plan.first == BOXES:
            numbers = computed[BOXES, window]
            highest = self.highest_ious(level, self.structure.decode(level, numbers, cells))
            row, place = can_beat(highest, plan.skip_below)
            logits = class_branch.output_at_cells(channels, changes[CLASSES], row, cells[place])
            numbers = numbers[row, :, place]
        else:
            logits = computed[CLASSES, window]
            highest = self.class_scores.highest(level, logits) * self.iou_bound(level)[:, None, cells]
            row, place = can_beat(highest, plan.skip_below)
            numbers = box_branch.output_at_cells(channels, changes[BOXES], row, cells[place])
            logits = logits[row, :, place]
        (boxes,), (scores,) = self._decoded(level, numbers.t()[None], logits.t()[None], cells[place])
        return row.repeat_interleave(self.structure.per_cell(level)), boxes, scores

    def highest_ious(self, level: str, boxes: Tensor) -> Tensor:
        """(T, B, n) the highest IoU of the boxes (B, n A, 4) of each cell with each target's."""
        per_cell = self.structure.per_cell(level)
        ious = box_iou(self._target_boxes(boxes)[:, None, None], boxes)
        return ious if per_cell == 1 else ious.unflatten(2, (-1, per_cell)).amax(3)

    def iou_bound(self, level: str) -> Tensor:
        """(T, n) an upper bound of the IoU of each cell's boxes with each target's, from the cell's place alone."""
        if level not in self._iou_bounds:
            points, widest = self.structure.points, self.structure.widest
            if points is None or widest is None:
                bound = self.clean.new_ones(len(self.targets), self.structure.levels[level][0, 0].numel())
            else:
                boxes = self._target_boxes(points[level])[:, None]
                bound = highest_iou(boxes, points[level], widest[level]) * (1 + SLACK)
            self._iou_bounds[level] = bound
        return self._iou_bounds[level]

    def _target_boxes(self, like: Tensor) -> Tensor:
        return like.new_tensor([target.box for target in self.targets])  # type: ignore[attr-defined]

    def highest_quality(self, candidates: Candidates, scores: Tensor) -> Tensor:
        """(T, B) the highest quality of any candidate for each target; ``scores`` (T, B) are the targets' own."""
        if self.quality_targets is None or all(a is b for a, b in zip(self.quality_targets, self.targets)):
            return scores
        return score_targets(self.quality_targets, candidates)


def can_beat(highest: Tensor, skip_below: Tensor) -> tuple[Tensor, Tensor]:
    """Row and place (n,) of what can exceed some target's ``skip_below`` (T,).

    Args:
        highest: (T, B, N) upper bounds.
    """
    # not >: what is no number is computed
    row, place = (~(highest * (1 + SLACK) <= skip_below[:, None, None])).any(0).nonzero(as_tuple=True)
    return row, place
