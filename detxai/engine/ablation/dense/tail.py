"""A one-stage detector under ablation: one level's branches, in the windows that some target can be answered from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.structure import Dense
from detxai.detections import Candidates
from detxai.engine.ablation.candidate_parts import chosen, joined, padded, repeated
from detxai.engine.ablation.dense.cell_scores import CellScores
from detxai.engine.ablation.dense.convolving import AblatedBranch
from detxai.engine.ablation.dense.windows import Window, around, cost, highest_iou, merged
from detxai.engine.ablation.quality_targets import probes_of, qualities_of
from detxai.engine.batching import takes_in_turn
from detxai.geometry import box_iou
from detxai.targets import Target, score_targets

SHARES = (0.8, 0.4)  # look where a candidate could keep this share of a clean score; where none did, look further
BOXES, CLASSES = 0, 1  # the two branches
FirstOutputs = dict[tuple[int, Window], Tensor]  # by branch and window, (B, outputs, cells)
SLACK = 1e-3  # relative: rounding may let a box end this much beyond its bound
WHOLE_FROM = 0.8  # share of a level from which on windows save nothing


@dataclass(frozen=True)
class Plan:
    """Which cells of a level to compute.

    Attributes:
        windows: they may share cells; they hold every cell that may give a target more than its ``least``.
        first: the branch to compute for all of them; the other then only where it can still give more than ``least``.
            None: both at once.
        least: (T,) candidates of a quality up to this are passed over.
        to_reach: (T,) where some candidate reaches this, those passed over do not matter.
        is_last: whether nothing that matters is passed over, whatever is reached.
    """

    windows: tuple[Window, ...]
    first: int | None
    least: Tensor
    to_reach: Tensor
    is_last: bool

    @property
    def n_cells(self) -> int:
        return sum(window.n_cells for window in self.windows)


class DenseTail:
    """The tail of a one-stage detector behind the levels that its head reads.

    Exact. An ablation changes the candidates of its own level; of the others each target needs only the one of
    highest quality (IoU times score), from the clean pass. Within the level, a cell's place alone bounds the IoU of its
    box with a target's: cells that cannot beat what others reach are left out. On a CPU the cheaper of box and class
    is computed first, and the other only for those cells that can still beat it then. Where an ablation takes so
    much away that what was left out could matter, a wider plan is computed for it. Targets of other kinds see every
    candidate.

    Args:
        structure: of the detector, for one image.
        targets: T questions.
        shares: of a clean score, falling: plans to try before the one that leaves out nothing that could ever matter.
        every_cell: compute all of the ablated level, as if no bound were known.
    """

    cpu_most = 16

    def __init__(
        self,
        structure: Dense,
        targets: Sequence[Target],
        shares: Sequence[float] = SHARES,
        *,
        every_cell: bool = False,
    ) -> None:
        self.structure, self.targets, self.shares = structure, targets, tuple(shares)
        self.probes = probes_of(targets)
        self.bounded = self.probes is not None and not every_cell
        self.class_scores = CellScores(structure, targets)
        self.branches = {name: self._branches_of(name) for name in structure.levels}
        counts = [level[0, 0].numel() * structure.per_cell(name) for name, level in structure.levels.items()]
        ends = torch.tensor(counts).cumsum(0).tolist()
        self.span = {name: (end - n, end) for name, n, end in zip(structure.levels, counts, ends)}
        self._everything = self._clean_candidates()
        self.clean = score_targets(targets, self._everything)[:, 0]
        self.qualities = None if self.probes is None else qualities_of(self.probes, self._everything)
        self.details: Mapping[str, str] = {"kind": "one-stage"}
        if not all(map(self.in_parts, structure.levels)):
            self.details = {"kind": "one-stage, whole levels", "reason": "the head normalises over a whole level"}
        self._kept: dict[str, tuple[Candidates, Candidates]] = {}
        self._plans: dict[str, list[Plan]] = {}
        self._bounds = {name: self._bound(name) for name in structure.levels} if self.bounded else {}

    def bytes_each(self, level: str) -> int:
        """What the convolutions of one ablation hold."""
        width = max(branch.width for branch in self.branches[level])
        feature = self.structure.levels[level]
        return feature.element_size() * (16 * feature[0, 0].numel() + 6 * width * self.plans(level)[0].n_cells)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        answer = self.clean.new_empty(len(self.targets), len(channels))
        waiting = torch.arange(len(channels), device=channels.device)
        computed: FirstOutputs = {}
        for plan in self.plans(level):
            found = self.candidates(level, plan, channels[waiting], fill[waiting], computed)
            scores = score_targets(self.targets, found)
            answer[:, waiting] = scores.to(answer.dtype)
            if plan.is_last:
                break
            # not <: a score that is no number has reached nothing
            misses = ~(self._reached(found, scores) >= plan.to_reach[:, None]).all(0)
            waiting = waiting[misses]
            if not len(waiting):
                break
            computed = {key: output[misses] for key, output in computed.items()}
        return answer

    def in_parts(self, level: str) -> bool:
        """Whether some cells of a level can be computed without the others."""
        return all(branch.place_by_place for branch in self.branches[level])

    def plans(self, level: str) -> list[Plan]:
        """What to compute for an ablation of ``level``: one plan after another until no target misses anything."""
        if level not in self._plans:
            self._plans[level] = self._made_plans(level)
        return self._plans[level]

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
            parts.append(self._decoded(name, boxes.clean, classes.clean, cells))
        return self._as_candidates(parts)

    def _decoded(self, level: str, numbers: Tensor, logits: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, n A, 4) and class scores (B, n A, C) of cells (n,), from what the head puts out for them."""
        boxes = self.structure.decode(level, numbers, cells)
        return boxes, self.class_scores.of_candidates(level, logits, numbers, boxes.dtype)

    def _as_candidates(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Candidates:
        """Boxes (B, n, 4) and class scores (B, n, C) of some parts of the head's output."""
        boxes, scores = (torch.cat(part, 1) for part in zip(*parts))
        labels = self.class_scores.labels
        if labels is None:
            labels = torch.arange(scores.shape[2]) + self.structure.first_label
        return Candidates(boxes[:, :, None], scores, self.class_scores.objectness(scores), labels)

    def _kept_without(self, level: str) -> tuple[Candidates, Candidates]:
        """The candidates of the levels before and after ``level`` that a target can need."""
        if level not in self._kept:
            start, end = self.span[level]
            if self.qualities is None:
                places = torch.arange(self._everything.boxes.shape[1], device=self.clean.device)
            else:
                others = self.qualities.clone()
                others[:, start:end] = -1
                places = others.argmax(1).unique()
            self._kept[level] = tuple(  # type: ignore[assignment]
                chosen(self._everything, side) for side in (places[places < start], places[places >= end])
            )
        return self._kept[level]

    # -- an ablation ---------------------------------------------------------------------------------------------

    def candidates(
        self, level: str, plan: Plan, channels: Tensor, fill: Tensor, computed: FirstOutputs | None = None
    ) -> Candidates:
        """What the targets can need of the candidates, with one channel changed, for each of B channels.

        Args:
            computed: outputs of the branch that comes first, of these channels by an earlier plan; gets those of this.
        """
        before, after = (repeated(kept, len(channels)) for kept in self._kept_without(level))
        if not plan.windows:
            return joined([before, after])
        changes = [branch.change(channels, fill) for branch in self.branches[level]]
        if plan.first is None:
            parts = [self._looked(level, window, channels, changes) for window in plan.windows]
        else:
            known = {} if computed is None else computed
            looked = [self._looked_twice(level, window, plan, channels, changes, known) for window in plan.windows]
            parts = [padded(looked, len(channels))]
        return joined([before, self._as_candidates(parts), after])

    def _looked(self, level: str, window: Window, channels: Tensor, changes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of all cells of a window: boxes (B, n A, 4) and class scores (B, n A, C)."""
        numbers, logits = (
            branch.without(channels, change, window)
            for branch, change in zip(self.branches[level], changes, strict=True)
        )
        cells = window.cells(self.structure.levels[level].shape[-1], numbers.device)
        return self._decoded(level, numbers, logits, cells)

    def _looked_twice(
        self,
        level: str,
        window: Window,
        plan: Plan,
        channels: Tensor,
        changes: Sequence[Tensor],
        computed: FirstOutputs,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a window's cells that beat ``least``: of which ablation (m,), boxes (m, 4) and class scores (m, C)."""
        of_boxes, of_classes = self.branches[level]
        cells = window.cells(self.structure.levels[level].shape[-1], channels.device)
        assert plan.first is not None
        if (plan.first, window) not in computed:
            branch = self.branches[level][plan.first]
            computed[plan.first, window] = branch.without(channels, changes[plan.first], window)
        if plan.first == BOXES:
            numbers = computed[BOXES, window]
            row, place = _beating(self._overlaps(level, self.structure.decode(level, numbers, cells)), plan.least)
            logits = of_classes.at(channels, changes[CLASSES], row, cells[place])
            numbers = numbers[row, :, place]
        else:
            logits = computed[CLASSES, window]
            highest = self.class_scores.highest(level, logits) * self._bounds[level][:, None, cells]
            row, place = _beating(highest, plan.least)
            numbers = of_boxes.at(channels, changes[BOXES], row, cells[place])
            logits = logits[row, :, place]
        (boxes,), (scores,) = self._decoded(level, numbers.t()[None], logits.t()[None], cells[place])
        return row.repeat_interleave(self.structure.per_cell(level)), boxes, scores

    def _overlaps(self, level: str, boxes: Tensor) -> Tensor:
        """(T, B, n) the highest IoU of the boxes (B, n A, 4) of each cell with each target's."""
        per_cell = self.structure.per_cell(level)
        overlaps = box_iou(self._boxes(boxes)[:, None, None], boxes)
        return overlaps if per_cell == 1 else overlaps.unflatten(2, (-1, per_cell)).amax(3)

    def _boxes(self, like: Tensor) -> Tensor:
        return like.new_tensor([target.box for target in self.targets])  # type: ignore[attr-defined]

    def _reached(self, candidates: Candidates, scores: Tensor) -> Tensor:
        """(T, B) the highest quality for each target."""
        if self.probes is None or all(probe is target for probe, target in zip(self.probes, self.targets)):
            return scores
        return score_targets(self.probes, candidates)

    # -- the plans -----------------------------------------------------------------------------------------------

    def _made_plans(self, level: str) -> list[Plan]:
        height, width = self.structure.levels[level].shape[-2:]
        whole = (Window(0, height, 0, width),)
        none = torch.zeros_like(self.clean)
        if not self.bounded or self.qualities is None:
            return [Plan(whole, None, none, none, is_last=True)]
        start, end = self.span[level]
        elsewhere = torch.cat([self.qualities[:, :start], self.qualities[:, end:], none[:, None]], 1).amax(1)
        plans: list[Plan] = []
        for share in (*self.shares, 0.0):
            least = torch.maximum(elsewhere, share * self.qualities.amax(1))
            wanted = (self._bounds[level] > least[:, None]).unflatten(1, (height, width)).cpu()
            windows = merged([window for target in wanted for window in around(target)])
            if not self.in_parts(level) or sum(map(cost, windows)) > WHOLE_FROM * height * width:
                windows = whole if windows else windows
            first = self._cheapest_first(level, windows, least)
            to_reach = torch.where(least > elsewhere, least, none)
            is_last = (windows == whole and first is None) or not bool(to_reach.any())
            plans.append(Plan(windows, first, least, to_reach, is_last))
            if plans[-1].is_last:
                break
        return plans

    def _cheapest_first(self, level: str, windows: Sequence[Window], least: Tensor) -> int | None:
        """Which branch to compute first, by what it would have left over in the clean pass; None: both at once."""
        if not takes_in_turn(self.clean.device) or not windows:
            return None  # what is left over differs in number, which a GPU would have to wait for
        branches, width = self.branches[level], self.structure.levels[level].shape[-1]
        cells = torch.cat([window.cells(width, least.device) for window in windows])
        start, end = self.span[level]
        scores = self.class_scores.highest(level, branches[CLASSES].clean) * self._bounds[level][:, None]
        overlaps = self._overlaps(level, self._everything.boxes[:, start:end, 0])
        prices: dict[int | None, float] = {None: len(cells) * float(sum(branch.cost for branch in branches))}
        for first, highest in ((BOXES, overlaps), (CLASSES, scores)):
            wanted = cells[_beating(highest[..., cells], least)[1]]
            prices[first] = len(cells) * branches[first].cost + branches[1 - first].price_at(wanted)
        return min(prices, key=lambda first: prices[first])

    def _bound(self, level: str) -> Tensor:
        """(T, n) the most that the IoU of a cell's box with a target's can be."""
        points, widest = self.structure.points, self.structure.widest
        if points is None or widest is None:
            return self.clean.new_ones(len(self.targets), self.structure.levels[level][0, 0].numel())
        return highest_iou(self._boxes(points[level])[:, None], points[level], widest[level]) * (1 + SLACK)


def _beating(highest: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Row and place (n,) of the candidates whose ``highest`` (T, B, N) is more than some target's ``least`` (T,)."""
    # not >: what is no number is looked at
    row, place = (~(highest * (1 + SLACK) <= least[:, None, None])).any(0).nonzero(as_tuple=True)
    return row, place
