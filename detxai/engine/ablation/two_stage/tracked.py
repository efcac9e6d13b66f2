"""A two-stage detector under ablation, of which only the proposals that can answer a target are followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.engine.ablation.two_stage.box_head import Looked
from detxai.engine.ablation.two_stage.roi_align import Samples
from detxai.engine.ablation.two_stage.tail import TwoStageTail
from detxai.geometry import box_iou
from detxai.targets import Target

MOST = 5  # proposals followed for a target
SHARE = 0.8  # of the best quality: what ablations take away is less, so that only these can be the best then
RIVALS = 0.4  # IoU from which on a proposal may come to suppress another, whose threshold is higher (0.7)


@dataclass(frozen=True)
class Followed:
    """What an ablation of one level is looked at.

    Attributes:
        moving: (m, 4) where the proposals of this level lie in the clean pass, input pixels.
        rivals: (n,) anchors of these, and of those that may suppress them.
        staying: the clean look at the proposals of other levels, and at the best of those that are not followed.
        changed: (k,) which of them are pooled from the ablated level.
        samples: where those are sampled.
    """

    moving: Tensor
    rivals: Tensor
    staying: Looked
    changed: Tensor
    samples: Samples


@dataclass(frozen=True)
class Pool:
    """Proposals that may be worth following.

    Attributes:
        looked: the clean look at N.
        level: (N,) the number of the level each is proposed by.
        stands: (N,) whether it is a proposal in the clean pass, or suppressed.
    """

    looked: Looked
    level: Tensor
    stands: Tensor

    @classmethod
    def of(cls, looked: Looked, number: int, *, stands: bool) -> Pool:
        like = looked.boxes.new_ones(len(looked), dtype=torch.long)
        return cls(looked, like * number, like.bool() if stands else ~like.bool())

    @classmethod
    def together(cls, parts: list[Pool]) -> Pool:
        """Several as one."""
        looked = Looked.together([part.looked for part in parts])
        return cls(looked, torch.cat([part.level for part in parts]), torch.cat([part.stands for part in parts]))

    def chosen(self, places: Tensor) -> Pool:
        """Some of them."""
        return Pool(self.looked.of(places), self.level[places], self.stands[places])


class TrackedTwoStage:
    """The tail of a two-stage detector, as far as the few proposals go that answer the targets.

    Not exact, and cheap: each target's best proposals are followed through every ablation. Where one of them moves
    to, and whether a rival suppresses it, is found from the anchors around it alone; if it is suppressed, the nearest
    survivor stands in for it. A proposal that was suppressed in the clean pass, and would have been the better
    answer, is followed too.

    Args:
        tail: the exact one.
        probes: T targets of the same boxes, whose score is a candidate's quality.
    """

    cpu_most = 32
    details: ClassVar[Mapping[str, str]] = {"kind": "two-stage, tracked"}

    def __init__(self, tail: TwoStageTail, probes: list[Target]) -> None:
        self.tail, self.probes = tail, probes
        self.clean = tail.clean
        self._last = self._lowest_score()
        self._followed = self._choose()

    def bytes_each(self, level: str) -> int:
        return self.tail.bytes_each(level)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        tail, batch, followed = self.tail, len(channels), self._followed[level]
        parts = []
        if len(followed.staying):
            again = tail.second.again(followed.staying, followed.changed, followed.samples, level, channels, fill)
            there = torch.ones(batch, len(followed.staying), dtype=torch.bool, device=fill.device)
            parts.append(tail.candidates(followed.staying.boxes.expand(batch, -1, -1), *again, there))
        if len(followed.moving):
            boxes, there = self._moved(level, followed, channels, fill)
            row = torch.arange(batch, device=fill.device).repeat_interleave(boxes.shape[1])
            seen = tail.second.without(boxes.flatten(0, 1), level, channels[row], fill[row])
            logits, deltas = (part.unflatten(0, (batch, -1)) for part in seen)
            parts.append(tail.candidates(boxes, logits, deltas, there))
        return tail.answer(parts, batch)

    def _moved(self, level: str, followed: Followed, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """The survivors (B, m, 4) nearest to where each proposal was, and whether (B, m) there is one near it."""
        survivors = self.tail.proposals[level].among(followed.rivals, channels, fill)
        left = survivors.scores > self._last
        near = box_iou(followed.moving[:, None], survivors.boxes[:, None]) * left[:, None]
        overlap, nearest = near.max(2)
        return survivors.boxes.gather(1, nearest[..., None].expand(-1, -1, 4)), overlap > 0

    # -- the clean pass, once ------------------------------------------------------------------------------------

    def _lowest_score(self) -> float:
        """What a proposal must exceed to be among the best of all levels."""
        scores = torch.cat([look.scores for look in self.tail.looks.values()])
        n = self.tail.structure.proposals.n_after_nms
        return float(scores.topk(n + 1).values[-1]) if len(scores) > n else -torch.inf

    def _choose(self) -> dict[str, Followed]:
        standing = Pool.together([Pool.of(self.tail.standing(name), i, stands=True) for i, name in self._levels])
        if not len(standing.looked):
            nothing = standing.stands
            return {name: self._followed_on(number, standing, nothing, nothing) for number, name in self._levels}
        best, place = self.tail.qualities(self.probes, standing.looked).max(1)
        answers = standing.chosen(place.unique())
        pool = Pool.together([standing, *[self._suppressed_by(answers, number) for number, _ in self._levels]])
        qualities = self.tail.qualities(self.probes, pool.looked)
        highest, chosen = qualities.masked_fill(~pool.stands & (qualities <= best[:, None]), -1).topk(
            min(MOST, len(pool.stands)), 1
        )
        moving = torch.zeros_like(pool.stands)
        moving[chosen[highest >= SHARE * best[:, None]]] = True
        runners_up = qualities.masked_fill(moving | ~pool.stands, -1).argmax(1)
        resting = torch.zeros_like(pool.stands).scatter_(0, runners_up, True) & pool.stands & ~moving
        return {name: self._followed_on(number, pool, moving, resting) for number, name in self._levels}

    @property
    def _levels(self) -> list[tuple[int, str]]:
        return list(enumerate(self.tail.looks))

    def _suppressed_by(self, answers: Pool, number: int) -> Pool:
        """A level's proposals that the answers of the same level suppress."""
        survivors = self.tail.proposals[self._levels[number][1]].clean
        rivals = self._rivals(answers.looked.boxes[answers.level == number], number)
        boxes = survivors.boxes[0, rivals & (survivors.scores[0] == -torch.inf)]
        return Pool.of(self.tail.second.clean(boxes), number, stands=False)

    def _rivals(self, boxes: Tensor, number: int) -> Tensor:
        """(n,) which of a level's anchors propose, in the clean pass, a box that overlaps one of these."""
        proposed = self.tail.proposals[self._levels[number][1]].clean.boxes[0]
        return (box_iou(boxes[:, None], proposed[None]) > RIVALS).any(0)

    def _followed_on(self, number: int, pool: Pool, moving: Tensor, resting: Tensor) -> Followed:
        here = pool.level == number
        boxes = pool.looked.boxes[moving & here]
        staying = pool.looked.of((moving & ~here & pool.stands) | resting)
        second, name = self.tail.second, self._levels[number][1]
        changed = second.pooled_from(name, staying.boxes).nonzero().flatten()
        rivals = self.tail.proposals[name].clean.anchors[0, self._rivals(boxes, number)]
        return Followed(boxes, rivals, staying, changed, second.samples(staying.boxes[changed]))
