"""The exact tail of a one-stage detector: one level's branches, in the windows that can answer some target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detxai.adapters.detector import Features
from detxai.adapters.structure import Dense
from detxai.engine.ablation.dense.ablation import BOXES, CLASSES, DenseAblation, FirstOutputs, Plan, can_beat
from detxai.engine.ablation.dense.tracked import TrackedDense
from detxai.engine.ablation.dense.windows import Window, bounding_window, cost, merged
from detxai.engine.ablation.tail import Tail
from detxai.engine.batching import prefers_loop
from detxai.targets import Target, score_targets

KEEP_ABOVE = (0.8, 0.4)  # compute where a candidate could keep this share of a clean score; where none did, go on lower
WHOLE_FROM = 0.8  # share of a level from which on windows save nothing


class DenseTail(Tail):
    """The tail of a one-stage detector behind the levels that its head reads.

    Exact. A cell's place alone bounds the IoU of its boxes with a target's: cells of the ablated level that cannot beat
    what others reach are left out. On a CPU the cheaper of box and class branch is computed first, and the other only
    for those cells that can still beat it then. Where an ablation takes so much away that what was left out could
    matter, a wider plan is computed for it. Targets that may read any candidate get all of them.

    Args:
        structure: of the detector, for one image.
        targets: T questions.
        keep_above: shares of a clean score, falling: plans to try before the one that leaves out nothing that matters.
        every_cell: compute all of the ablated level, as if no bound were known.
    """

    cpu_batch = 16

    def __init__(
        self,
        structure: Dense,
        targets: Sequence[Target],
        keep_above: Sequence[float] = KEEP_ABOVE,
        *,
        every_cell: bool = False,
    ) -> None:
        self.ablation = DenseAblation(structure, targets)
        self.structure, self.keep_above = structure, tuple(keep_above)
        self.is_bounded = self.ablation.quality_targets is not None and not every_cell
        self.clean = self.ablation.clean
        self.details = {"kind": "one-stage"}
        if not self._computes_cells_alone():
            self.details = {"kind": "one-stage, whole levels", "reason": "the head normalises over a whole level"}
        self._plans: dict[str, list[Plan]] = {}

    def bytes_per_item(self, level: str) -> int:
        return self.ablation.bytes_per_item(level, self.plans(level)[0].n_cells)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        ablation = self.ablation
        answer = self.clean.new_empty(len(ablation.targets), len(channels))
        waiting = torch.arange(len(channels), device=channels.device)
        computed: FirstOutputs = {}
        for plan in self.plans(level):
            candidates = ablation.candidates(level, plan, channels[waiting], fill[waiting], computed)
            scores = score_targets(ablation.targets, candidates)
            answer[:, waiting] = scores.to(answer.dtype)
            if plan.is_exhaustive:
                break
            # not <: a score that is no number has reached nothing
            misses = ~(ablation.highest_quality(candidates, scores) >= plan.retry_below[:, None]).all(0)
            waiting = waiting[misses]
            if not len(waiting):
                break
            computed = {key: output[misses] for key, output in computed.items()}
        return answer

    def approximate(self) -> Tail | None:
        if self.ablation.qualities is None or not self._computes_cells_alone():
            return None  # following one cell would take as long as following all
        return TrackedDense(self.ablation, self.ablation.qualities)

    def _computes_cells_alone(self) -> bool:
        return all(map(self.ablation.computes_cells_alone, self.structure.levels))

    # -- the plans -----------------------------------------------------------------------------------------------

    def plans(self, level: str) -> list[Plan]:
        """What to compute for an ablation of ``level``: one plan after another until no target misses anything."""
        if level not in self._plans:
            self._plans[level] = self._made_plans(level)
        return self._plans[level]

    def _made_plans(self, level: str) -> list[Plan]:
        height, width = self.structure.levels[level].shape[-2:]
        none, qualities = torch.zeros_like(self.clean), self.ablation.qualities
        if not self.is_bounded or qualities is None:
            return [Plan((Window(0, height, 0, width),), None, none, none, is_exhaustive=True)]
        start, end = self.ablation.span[level]
        elsewhere = torch.cat([qualities[:, :start], qualities[:, end:], none[:, None]], 1).amax(1)
        plans: list[Plan] = []
        for share in (*self.keep_above, 0.0):
            plans.append(self._plan(level, elsewhere, share * qualities.amax(1)))
            if plans[-1].is_exhaustive:
                break
        return plans

    def _plan(self, level: str, elsewhere: Tensor, wanted: Tensor) -> Plan:
        """The plan that skips what other levels reach anyway (T,), and what stays below the wanted quality (T,)."""
        height, width = self.structure.levels[level].shape[-2:]
        whole = (Window(0, height, 0, width),)
        skip_below = torch.maximum(elsewhere, wanted)
        cells = (self.ablation.iou_bound(level) > skip_below[:, None]).unflatten(1, (height, width)).cpu()
        windows = merged([window for of_target in cells for window in bounding_window(of_target)])
        computes_alone = self.ablation.computes_cells_alone(level)
        if windows and (not computes_alone or sum(map(cost, windows)) > WHOLE_FROM * height * width):
            windows = whole
        first = self._cheapest_first(level, windows, skip_below)
        retry_below = torch.where(skip_below > elsewhere, skip_below, 0)
        is_exhaustive = (windows == whole and first is None) or not bool(retry_below.any())
        return Plan(windows, first, skip_below, retry_below, is_exhaustive)

    def _cheapest_first(self, level: str, windows: Sequence[Window], skip_below: Tensor) -> int | None:
        """Which branch to compute first, by what it would have left over in the clean pass; None: both at once."""
        if not prefers_loop(self.clean.device) or not windows:
            return None  # what is left over differs in number, which a GPU would have to wait for
        ablation = self.ablation
        branches, width = ablation.branches[level], self.structure.levels[level].shape[-1]
        cells = torch.cat([window.cells(width, skip_below.device) for window in windows])
        start, end = ablation.span[level]
        by_class = ablation.class_scores.highest(level, branches[CLASSES].clean) * ablation.iou_bound(level)[:, None]
        by_box = ablation.highest_ious(level, ablation.clean_candidates.boxes[:, start:end, 0])
        costs: dict[int | None, float] = {None: len(cells) * float(sum(branch.cost for branch in branches))}
        for first, highest in ((BOXES, by_box), (CLASSES, by_class)):
            left_over = cells[can_beat(highest[..., cells], skip_below)[1]]
            costs[first] = len(cells) * branches[first].cost + branches[1 - first].cost_at_cells(left_over)
        return min(costs, key=lambda first: costs[first])


def dense_tail(structure: Dense, features: Features, targets: Sequence[Target]) -> DenseTail:
    """The row of the table of tails."""
    return DenseTail(structure, targets)
