"""A one-stage detector under ablation: one level's branches, in the windows that some target can be answered from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from detxai.adapters.structure import Dense
from detxai.detections import Candidates
from detxai.engine.batching import slots, takes_in_turn
from detxai.engine.convolving import AblatedBranch
from detxai.engine.probes import labels_read, probes_of, qualities_of
from detxai.engine.windows import Window, around, cost, highest_iou, merged
from detxai.geometry import box_iou
from detxai.targets import Target, score_targets

SHARES = (0.8, 0.4)  # look where a candidate could keep this share of a clean score; where none did, look further
BOXES, CLASSES = 0, 1  # the two branches
GATHERING_COSTS = 3.0  # times as much for single cells, picked out, as for as many in a window
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
    details: ClassVar[Mapping[str, str]] = {"kind": "one-stage"}

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
        self.columns = _columns_needed(targets, structure)
        self.labels = None if self.columns is None else self.columns.cpu()
        self.branches = {name: self._branches_of(name) for name in structure.levels}
        counts = [level[0, 0].numel() for level in structure.levels.values()]
        ends = torch.tensor(counts).cumsum(0).tolist()
        self.span = {name: (end - n, end) for name, n, end in zip(structure.levels, counts, ends)}
        self._everything = self._clean_candidates()
        self.clean = score_targets(targets, self._everything)[:, 0]
        self.qualities = None if self.probes is None else qualities_of(self.probes, self._everything)
        self._kept: dict[str, tuple[Candidates, Candidates]] = {}
        self._plans: dict[str, list[Plan]] = {}
        self._bounds = {name: self._bound(name) for name in structure.levels} if self.bounded else {}

    def bytes_each(self, level: str) -> int:
        """What the convolutions of one ablation hold."""
        chains = (self.structure.boxes[level], self.structure.classes[level])
        width = max(len(part.weight) for chain in chains for part in chain)
        feature = self.structure.levels[level]
        return feature.element_size() * (16 * feature[0, 0].numel() + 6 * width * self.plans(level)[0].n_cells)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        answer = self.clean.new_empty(len(self.targets), len(channels))
        waiting = torch.arange(len(channels), device=channels.device)
        for plan in self.plans(level):
            found = self.candidates(level, plan, channels[waiting], fill[waiting])
            scores = score_targets(self.targets, found)
            answer[:, waiting] = scores.to(answer.dtype)
            if plan.is_last:
                break
            # not <: a score that is no number has reached nothing
            waiting = waiting[~(self._reached(found, scores) >= plan.to_reach[:, None]).all(0)]
            if not len(waiting):
                break
        return answer

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
            AblatedBranch(structure.classes[name], level, self.columns),
        )

    def _clean_candidates(self) -> Candidates:
        parts = []
        for name, (boxes, classes) in self.branches.items():
            cells = torch.arange(boxes.clean.shape[-1], device=boxes.clean.device)
            parts.append((self.structure.decode(name, boxes.clean, cells), classes.clean))
        return self._as_candidates(parts)

    def _as_candidates(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Candidates:
        """Boxes (B, n, 4) and logits (B, C, n) of some parts of the head's output."""
        boxes = torch.cat([part[0] for part in parts], 1)
        scores = torch.cat([part[1] for part in parts], 2).to(boxes.dtype).sigmoid().transpose(1, 2)
        labels = torch.arange(scores.shape[2]) if self.labels is None else self.labels
        return Candidates(boxes[:, :, None], scores, scores.amax(-1), labels)

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
                _chosen(self._everything, side) for side in (places[places < start], places[places >= end])
            )
        return self._kept[level]

    # -- an ablation ---------------------------------------------------------------------------------------------

    def candidates(self, level: str, plan: Plan, channels: Tensor, fill: Tensor) -> Candidates:
        """What the targets can need of the candidates, with one channel changed, for each of B channels."""
        before, after = (_repeated(kept, len(channels)) for kept in self._kept_without(level))
        if not plan.windows:
            return _joined([before, after])
        changes = [branch.change(channels, fill) for branch in self.branches[level]]
        if plan.first is None:
            parts = [self._looked(level, window, channels, changes) for window in plan.windows]
        else:
            looked = [self._looked_twice(level, window, plan, channels, changes) for window in plan.windows]
            parts = [_padded(looked, len(channels))]
        return _joined([before, self._as_candidates(parts), after])

    def _looked(self, level: str, window: Window, channels: Tensor, changes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of all cells of a window: boxes (B, n, 4) and logits (B, C, n)."""
        numbers, logits = (
            branch.without(channels, change, window)
            for branch, change in zip(self.branches[level], changes, strict=True)
        )
        cells = window.cells(self.structure.levels[level].shape[-1], numbers.device)
        return self.structure.decode(level, numbers, cells), logits

    def _looked_twice(
        self, level: str, window: Window, plan: Plan, channels: Tensor, changes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the cells of a window that beat ``least``: of which ablation (n,), boxes (n, 4) and logits (n, C)."""
        (of_boxes, of_classes), decode = self.branches[level], self.structure.decode
        cells = window.cells(self.structure.levels[level].shape[-1], channels.device)
        if plan.first == BOXES:
            boxes = decode(level, of_boxes.without(channels, changes[BOXES], window), cells)
            row, place = _beating(self._overlaps(boxes), plan.least)
            return row, boxes[row, place], of_classes.at(channels, changes[CLASSES], row, cells[place])
        logits = of_classes.without(channels, changes[CLASSES], window)
        row, place = _beating(self._asked(logits) * self._bounds[level][:, None, cells], plan.least)
        numbers = of_boxes.at(channels, changes[BOXES], row, cells[place])
        return row, decode(level, numbers.t()[None], cells[place])[0], logits[row, :, place]

    def _overlaps(self, boxes: Tensor) -> Tensor:
        """(T, B, n) the IoU of boxes (B, n, 4) with each target's."""
        return box_iou(self._boxes(boxes)[:, None, None], boxes)

    def _asked(self, logits: Tensor) -> Tensor:
        """(T, B, n) from logits (B, C, n): the most that each target can take a candidate's score for."""
        if self.columns is None:
            return logits.amax(1).sigmoid().expand(len(self.targets), -1, -1)
        labels = torch.tensor([target.label for target in self.targets])  # type: ignore[attr-defined]
        return logits[:, torch.searchsorted(self.columns, labels)].sigmoid().transpose(0, 1)

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
            if sum(map(cost, windows)) > WHOLE_FROM * height * width:
                windows = whole
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
        scores = self._asked(branches[CLASSES].clean) * self._bounds[level][:, None]
        overlaps = self._overlaps(self._everything.boxes[:, start:end, 0])
        prices: dict[int | None, float] = {None: float(sum(branch.cost for branch in branches))}
        for first, highest in ((BOXES, overlaps), (CLASSES, scores)):
            then = branches[1 - first]
            share = len(_beating(highest[..., cells], least)[0]) / len(cells)
            if then.has_places:
                prices[first] = branches[first].cost + GATHERING_COSTS * share * then.cost
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


def _columns_needed(targets: Sequence[Target], structure: Dense) -> Tensor | None:
    """The labels that the targets ask about; None where one looks at all classes, or at one that there is not."""
    labels = labels_read(targets)
    if labels is None:
        return None
    like = next(iter(structure.classes.values()))[-1].weight
    return torch.tensor(labels, device=like.device) if labels[-1] < len(like) else None


def _chosen(candidates: Candidates, places: Tensor) -> Candidates:
    return replace(
        candidates,
        boxes=candidates.boxes[:, places],
        class_scores=candidates.class_scores[:, places],
        objectness=candidates.objectness[:, places],
    )


def _padded(parts: Sequence[tuple[Tensor, Tensor, Tensor]], batch: int) -> tuple[Tensor, Tensor]:
    """Single candidates, each of one ablation, as boxes (B, n, 4) and logits (B, C, n), filled up with nothing."""
    row, boxes, logits = (torch.cat(column) for column in zip(*parts))
    order = row.argsort(stable=True)
    row = row[order]
    slot, n = slots(row, batch)
    wide = boxes.new_zeros(batch, n, 4)
    wide[row, slot] = boxes[order]
    deep = logits.new_full((batch, n, logits.shape[1]), -torch.inf)
    deep[row, slot] = logits[order]
    return wide, deep.transpose(1, 2)


def _repeated(candidates: Candidates, batch: int) -> Candidates:
    """Candidates of one image, for each of a batch of versions of it."""
    return replace(
        candidates,
        boxes=candidates.boxes.expand(batch, -1, -1, -1),
        class_scores=candidates.class_scores.expand(batch, -1, -1),
        objectness=candidates.objectness.expand(batch, -1),
    )


def _joined(parts: Sequence[Candidates]) -> Candidates:
    return replace(
        parts[0],
        boxes=torch.cat([part.boxes for part in parts], 1),
        class_scores=torch.cat([part.class_scores for part in parts], 1),
        objectness=torch.cat([part.objectness for part in parts], 1),
    )
