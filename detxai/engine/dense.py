"""A one-stage detector under ablation: one level's branches, in the windows that some target can be answered from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detxai.adapters.structure import Dense
from detxai.detections import Candidates
from detxai.engine.convolving import AblatedBranch
from detxai.engine.windows import Window, around, cost, highest_iou, merged
from detxai.targets import (
    BoxScoreTarget,
    BoxSideTarget,
    BoxTarget,
    ClassScoreTarget,
    SimilarityTarget,
    Target,
    score_targets,
)

# For these the answer is that of one candidate: the one with the highest quality, which is no more than its IoU.
BY_QUALITY = (ClassScoreTarget, SimilarityTarget)  # their score is the quality
BY_BEST = (BoxScoreTarget, BoxSideTarget)  # theirs is read off the candidate of highest IoU * p(label)

SHARES = (0.8, 0.4)  # look where a candidate could keep this share of a clean score; where none did, look further
SLACK = 1e-3  # relative: rounding may let a box end this much beyond its bound
WHOLE_FROM = 0.8  # share of a level from which on windows save nothing


@dataclass(frozen=True)
class Plan:
    """Which cells of a level to compute.

    Attributes:
        windows: they may share cells.
        missed: (T,) what a target's quality may reach elsewhere on the level; 0 where that cannot matter to it.
        is_last: whether nothing is missed at all.
    """

    windows: tuple[Window, ...]
    missed: Tensor
    is_last: bool

    @property
    def n_cells(self) -> int:
        return sum(window.n_cells for window in self.windows)


class DenseTail:
    """The tail of a one-stage detector behind the levels that its head reads.

    Exact. An ablation changes the candidates of its own level; of the others each target needs only the one of
    highest quality (IoU times score), from the clean pass. Within the level, a cell's place alone bounds the IoU of its
    box with a target's: cells that cannot reach what others reach are left out, and where an ablation takes so much
    away that they could, a wider plan is computed for it. Targets of other kinds see every candidate.

    Args:
        structure: of the detector, for one image.
        targets: T questions.
        shares: of a clean score, falling: plans to try before a whole level; none: always the whole level.
    """

    def __init__(self, structure: Dense, targets: Sequence[Target], shares: Sequence[float] = SHARES) -> None:
        self.structure, self.targets = structure, targets
        self.probes = _probes(targets)
        self.shares = tuple(shares) if self.probes is not None and structure.points is not None else ()
        self.columns = _columns_needed(targets, structure)
        self.branches = {name: self._branches_of(name) for name in structure.levels}
        counts = [level[0, 0].numel() for level in structure.levels.values()]
        ends = torch.tensor(counts).cumsum(0).tolist()
        self._span = {name: (end - n, end) for name, n, end in zip(structure.levels, counts, ends)}
        self._everything = self._clean_candidates()
        self.clean = score_targets(targets, self._everything)[:, 0]
        self._qualities = None if self.probes is None else _qualities(self.probes, self._everything)
        self._kept: dict[str, tuple[Candidates, Candidates]] = {}
        self._plans: dict[str, list[Plan]] = {}

    def bytes_each(self, level: str) -> int:
        """What the convolutions of one ablation hold."""
        chains = (self.structure.boxes[level], self.structure.classes[level])
        width = max(len(part.weight) for chain in chains for part in chain)
        feature = self.structure.levels[level]
        return feature.element_size() * (16 * feature[0, 0].numel() + 6 * width * self.plans(level)[0].n_cells)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        answer = self.clean.new_empty(len(self.targets), len(channels))
        waiting = torch.arange(len(channels), device=channels.device)
        changes = [branch.change(channels, fill) for branch in self.branches[level]]
        for plan in self.plans(level):
            found = self._candidates(level, plan, channels[waiting], [change[waiting] for change in changes])
            scores = score_targets(self.targets, found)
            answer[:, waiting] = scores.to(answer.dtype)
            if plan.is_last:
                break
            # not <: a score that is no number has reached nothing
            waiting = waiting[~(self._reached(found, scores) >= plan.missed[:, None]).all(0)]
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
        labels = torch.arange(scores.shape[2], device=scores.device) if self.columns is None else self.columns
        return Candidates(boxes[:, :, None], scores, scores.amax(-1), labels)

    def _kept_without(self, level: str) -> tuple[Candidates, Candidates]:
        """The candidates of the levels before and after ``level`` that a target can need."""
        if level not in self._kept:
            start, end = self._span[level]
            if self._qualities is None:
                places = torch.arange(self._everything.boxes.shape[1], device=self.clean.device)
            else:
                others = self._qualities.clone()
                others[:, start:end] = -1
                places = others.argmax(1).unique()
            self._kept[level] = tuple(  # type: ignore[assignment]
                _chosen(self._everything, side) for side in (places[places < start], places[places >= end])
            )
        return self._kept[level]

    # -- an ablation ---------------------------------------------------------------------------------------------

    def _candidates(self, level: str, plan: Plan, channels: Tensor, changes: Sequence[Tensor]) -> Candidates:
        """What the targets can need of the candidates, with one channel changed, for each of B channels."""
        width = self.structure.levels[level].shape[-1]
        parts = []
        for window in plan.windows:
            boxes, logits = (
                branch.without(channels, change, window)
                for branch, change in zip(self.branches[level], changes, strict=True)
            )
            parts.append((self.structure.decode(level, boxes, window.cells(width, boxes.device)), logits))
        before, after = (_repeated(kept, len(channels)) for kept in self._kept_without(level))
        return _joined([before, *([self._as_candidates(parts)] if parts else []), after])

    def _reached(self, candidates: Candidates, scores: Tensor) -> Tensor:
        """(T, B) the highest quality for each target."""
        if self.probes is None or all(probe is target for probe, target in zip(self.probes, self.targets)):
            return scores
        return score_targets(self.probes, candidates)

    # -- the plans -----------------------------------------------------------------------------------------------

    def _made_plans(self, level: str) -> list[Plan]:
        height, width = self.structure.levels[level].shape[-2:]
        whole = Plan((Window(0, height, 0, width),), torch.zeros_like(self.clean), is_last=True)
        if not self.shares or self._qualities is None or self.probes is None:
            return [whole]
        start, end = self._span[level]
        elsewhere = torch.cat([self._qualities[:, :start], self._qualities[:, end:]], 1)
        elsewhere = elsewhere.amax(1) if elsewhere.shape[1] else torch.zeros_like(self.clean)
        bound = self._bound(level) * (1 + SLACK)
        plans = []
        for share in self.shares:
            wanted = bound > torch.maximum(elsewhere, share * self._qualities.amax(1))[:, None]
            windows = merged([window for row in wanted.unflatten(1, (height, width)).cpu() for window in around(row)])
            if sum(map(cost, windows)) > WHOLE_FROM * height * width:
                break
            missed = bound.unflatten(1, (height, width)).clone()
            for window in windows:
                window.of(missed).zero_()
            missed = missed.flatten(1).amax(1)
            missed = torch.where(missed <= elsewhere, 0, missed)
            plans.append(Plan(windows, missed, is_last=not bool(missed.any())))
            if plans[-1].is_last:
                return plans
        return [*plans, whole]

    def _bound(self, level: str) -> Tensor:
        """(T, n) the most that the IoU of a cell's box with a target's can be."""
        structure = self.structure
        assert structure.points is not None
        assert structure.widest is not None
        box = self.clean.new_tensor([target.box for target in self.targets])  # type: ignore[attr-defined]
        points, widest = structure.points[level], structure.widest[level]
        return highest_iou(box.to(points)[:, None], points, widest)


def _probes(targets: Sequence[Target]) -> list[Target] | None:
    """For each target, one of the same box whose score is the quality; None where a target may need any candidate."""
    probes: list[Target] = []
    for target in targets:
        if type(target) in BY_QUALITY:
            probes.append(target)
        elif type(target) in BY_BEST and isinstance(target, BoxTarget):
            probes.append(ClassScoreTarget(target.box, target.label, target.reach))
        else:
            return None
    return probes


def _columns_needed(targets: Sequence[Target], structure: Dense) -> Tensor | None:
    """The labels that the targets ask about; None where one looks at all classes, or at one that there is not."""
    if not all(type(target) in (*BY_QUALITY, *BY_BEST) for target in targets):
        return None
    if not targets or any(isinstance(target, BoxTarget) and target.reads_all_classes for target in targets):
        return None
    labels = sorted({target.label for target in targets if isinstance(target, BoxTarget)})
    like = next(iter(structure.classes.values()))[-1].weight
    return torch.tensor(labels, device=like.device) if labels[-1] < len(like) else None


def _qualities(probes: Sequence[Target], candidates: Candidates) -> Tensor:
    """(T, N) of every candidate of one image: each is asked about as if it were alone."""
    alone = Candidates(
        candidates.boxes.transpose(0, 1),
        candidates.class_scores.transpose(0, 1),
        candidates.objectness.transpose(0, 1),
        candidates.labels,
    )
    return score_targets(probes, alone)


def _chosen(candidates: Candidates, places: Tensor) -> Candidates:
    return replace(
        candidates,
        boxes=candidates.boxes[:, places],
        class_scores=candidates.class_scores[:, places],
        objectness=candidates.objectness[:, places],
    )


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
