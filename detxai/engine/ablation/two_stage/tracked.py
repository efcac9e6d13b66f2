"""A two-stage detector under ablation, following only the proposals that can answer a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.two_stage.ablation import TwoStageAblation
from detxai.engine.ablation.two_stage.box_head import BoxOutputs
from detxai.engine.ablation.two_stage.roi_align import RoISamples
from detxai.geometry import box_iou
from detxai.targets import Target

MAX_TRACKED = 5  # proposals followed for each target
KEEP_ABOVE = 0.8  # of the best quality: ablations take away less than the rest, so that only these can be the best then
RIVAL_IOU = 0.4  # from which on a proposal may come to suppress another; the detector's own threshold is higher (0.7)


@dataclass(frozen=True)
class TrackedProposals:
    """Proposals that may be worth following.

    Attributes:
        outputs: of the box head without any ablation, for N proposals.
        level: (N,) int64, the number of the level that proposes each.
        survives: (N,) bool, whether it is a proposal in the clean pass, or suppressed there.
    """

    outputs: BoxOutputs
    level: Tensor
    survives: Tensor

    @classmethod
    def from_level(cls, outputs: BoxOutputs, level: int, *, survive: bool) -> TrackedProposals:
        """Proposals of one level, which survive in the clean pass or not."""
        numbers = torch.full((len(outputs),), level, device=outputs.boxes.device)
        return cls(outputs, numbers, torch.full_like(numbers, survive, dtype=torch.bool))

    @classmethod
    def cat(cls, parts: Sequence[TrackedProposals]) -> TrackedProposals:
        """Several sets as one, one after another."""
        outputs = BoxOutputs.cat([part.outputs for part in parts])
        return cls(outputs, torch.cat([part.level for part in parts]), torch.cat([part.survives for part in parts]))

    def select(self, places: Tensor) -> TrackedProposals:
        """Some of them: ``places`` are indices, or a mask (N,)."""
        return TrackedProposals(self.outputs.select(places), self.level[places], self.survives[places])


@dataclass(frozen=True)
class TrackedSet:
    """What is computed for an ablation of one level.

    Attributes:
        moving: (m, 4) where the tracked proposals of this level lie in the clean pass, input pixels.
        rivals: (n,) the anchors of these, and of those that may suppress them.
        fixed: the clean outputs for the tracked proposals of other levels, and for the best that are not tracked.
        changed: (k,) indices of those that are pooled from the ablated level.
        samples: where those are sampled.
    """

    moving: Tensor
    rivals: Tensor
    fixed: BoxOutputs
    changed: Tensor
    samples: RoISamples


class TrackedTwoStage(Tail):
    """The tail of a two-stage detector, as far as the few proposals go that answer the targets.

    Not exact, and cheap: each target's best proposals are followed through every ablation. Where one of them moves
    to, and whether a rival suppresses it, is found from the anchors around it alone; if it is suppressed, the nearest
    survivor replaces it. A proposal that was suppressed in the clean pass, and would have been the better answer, is
    followed too.

    Args:
        ablation: of the detector.
        quality_targets: T targets of the same boxes, whose score is a candidate's quality.
    """

    cpu_batch = 32

    def __init__(self, ablation: TwoStageAblation, quality_targets: list[Target]) -> None:
        self.ablation, self.quality_targets = ablation, quality_targets
        self.details = {"kind": "two-stage, tracked"}
        self.clean = ablation.clean
        self._levels = list(ablation.clean_levels)
        self._score_to_beat = self._lowest_kept_score()
        self.tracked = self._tracked_sets()

    def bytes_per_item(self, level: str) -> int:
        return self.ablation.bytes_per_item(level)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        ablation, tracked, batch = self.ablation, self.tracked[level], len(channels)
        head, fixed, parts = ablation.box_head, tracked.fixed, []
        if len(fixed):
            rescored = head.rescore_fixed(fixed, tracked.changed, tracked.samples, level, channels, fill)
            counts = torch.ones(batch, len(fixed), dtype=torch.bool, device=fill.device)
            parts.append(ablation.candidates(fixed.boxes.expand(batch, -1, -1), *rescored, counts))
        if len(tracked.moving):
            boxes, counts = self._moved(level, tracked, channels, fill)
            row = torch.arange(batch, device=fill.device).repeat_interleave(boxes.shape[1])
            outputs = head.score_ablated(boxes.flatten(0, 1), level, channels[row], fill[row])
            logits, deltas = (output.unflatten(0, (batch, -1)) for output in outputs)
            parts.append(ablation.candidates(boxes, logits, deltas, counts))
        return ablation.score(parts, batch)

    def _moved(self, level: str, tracked: TrackedSet, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """The survivors (B, m, 4) nearest to where each proposal was, and whether (B, m) there is one near it."""
        survivors = self.ablation.proposals[level].ablated_at_anchors(tracked.rivals, channels, fill)
        is_kept = survivors.scores > self._score_to_beat
        near = box_iou(tracked.moving[:, None], survivors.boxes[:, None]) * is_kept[:, None]
        overlap, nearest = near.max(2)
        return survivors.boxes.gather(1, nearest[..., None].expand(-1, -1, 4)), overlap > 0

    # -- the clean pass, once ------------------------------------------------------------------------------------

    def _lowest_kept_score(self) -> float:
        """The score that a proposal must exceed to be among the best of all levels."""
        scores = torch.cat([level.scores for level in self.ablation.clean_levels.values()])
        n = self.ablation.structure.proposals.n_after_nms
        return float(scores.topk(n + 1).values[-1]) if len(scores) > n else -torch.inf

    def _tracked_sets(self) -> dict[str, TrackedSet]:
        """Level -> what an ablation of it computes."""
        survivors = TrackedProposals.cat(
            [
                TrackedProposals.from_level(self.ablation.best_outputs(name), number, survive=True)
                for number, name in enumerate(self._levels)
            ]
        )
        if not len(survivors.outputs):
            moving = runners_up = survivors.survives
            return self._sets_of(survivors, moving, runners_up)
        best, answering = self._qualities(survivors).max(1)
        answers = survivors.select(answering.unique())
        suppressed = [self._suppressed_by(answers, number) for number in range(len(self._levels))]
        proposals = TrackedProposals.cat([survivors, *suppressed])
        qualities = self._qualities(proposals)
        moving = self._worth_following(proposals, qualities, best)
        runners_up = self._best_of_others(proposals, qualities, moving)
        return self._sets_of(proposals, moving, runners_up)

    def _worth_following(self, proposals: TrackedProposals, qualities: Tensor, best: Tensor) -> Tensor:
        """(N,) bool: for each target the few of highest quality that come near the best; suppressed ones must beat it.

        Args:
            proposals: N of them.
            qualities: (T, N).
            best: (T,) of the survivors.
        """
        is_no_answer = ~proposals.survives & (qualities <= best[:, None])
        eligible = qualities.masked_fill(is_no_answer, -1)
        highest, places = eligible.topk(min(MAX_TRACKED, qualities.shape[1]), 1)
        followed = torch.zeros_like(proposals.survives)
        followed[places[highest >= KEEP_ABOVE * best[:, None]]] = True
        return followed

    def _best_of_others(self, proposals: TrackedProposals, qualities: Tensor, moving: Tensor) -> Tensor:
        """(N,) bool: for each target the best survivor that is not followed."""
        eligible = proposals.survives & ~moving
        best = qualities.masked_fill(~eligible, -1).argmax(1)
        return torch.zeros_like(moving).scatter_(0, best, True) & eligible

    def _qualities(self, proposals: TrackedProposals) -> Tensor:
        return self.ablation.qualities(self.quality_targets, proposals.outputs)

    def _suppressed_by(self, answers: TrackedProposals, level: int) -> TrackedProposals:
        """A level's proposals that the answers of the same level may suppress."""
        clean = self.ablation.proposals[self._levels[level]].clean
        rivals = self._rivals(answers.outputs.boxes[answers.level == level], level)
        boxes = clean.boxes[0, rivals & (clean.scores[0] == -torch.inf)]
        return TrackedProposals.from_level(self.ablation.box_head.score_boxes(boxes), level, survive=False)

    def _rivals(self, boxes: Tensor, level: int) -> Tensor:
        """(n,) bool, which of a level's anchors propose, in the clean pass, a box that overlaps one of these."""
        proposed = self.ablation.proposals[self._levels[level]].clean.boxes[0]
        return (box_iou(boxes[:, None], proposed[None]) > RIVAL_IOU).any(0)

    def _sets_of(self, proposals: TrackedProposals, moving: Tensor, runners_up: Tensor) -> dict[str, TrackedSet]:
        return {name: self._set_of(level, proposals, moving, runners_up) for level, name in enumerate(self._levels)}

    def _set_of(self, level: int, proposals: TrackedProposals, moving: Tensor, runners_up: Tensor) -> TrackedSet:
        name, head, is_here = self._levels[level], self.ablation.box_head, proposals.level == level
        boxes = proposals.outputs.boxes[moving & is_here]
        fixed = proposals.outputs.select((moving & ~is_here & proposals.survives) | runners_up)
        changed = head.pooled_from(name, fixed.boxes).nonzero().flatten()
        rivals = self.ablation.proposals[name].clean.anchors[0, self._rivals(boxes, level)]
        return TrackedSet(boxes, rivals, fixed, changed, head.samples(fixed.boxes[changed]))
