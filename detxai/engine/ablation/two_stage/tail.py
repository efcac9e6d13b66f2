"""A two-stage detector under ablation: proposals of one level, then a look at those that matter to some target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops

from detxai.adapters.structure import TwoStage
from detxai.detections import Candidates
from detxai.engine.ablation.quality_targets import labels_read, qualities_of
from detxai.engine.ablation.two_stage.box_head import Looked, SecondStage
from detxai.engine.ablation.two_stage.proposing import LevelProposals, Survivors
from detxai.engine.ablation.two_stage.roi_align import Samples
from detxai.engine.batching import slots, takes_in_turn
from detxai.geometry import box_iou
from detxai.targets import BoxTarget, Target, score_targets


@dataclass(frozen=True)
class LevelLook:
    """One level's proposals in the clean pass.

    Attributes:
        scores: (N,) of those that survived the level's own non-maximum suppression.
        near: (n,) which of them are within some target's reach.
        looked: the look at those.
    """

    scores: Tensor
    near: Tensor
    looked: Looked


@dataclass(frozen=True)
class Kept:
    """What an ablation of one level leaves in place: the proposals of all other levels.

    Attributes:
        scores: (N,) in reach or not: they compete for the last places.
        n_before: how many of them belong to levels before the ablated one.
        near: (n,) which of them are within some target's reach.
        looked: the clean look at those.
        changed: (m,) which of those are pooled from the ablated level.
        samples: where those are sampled.
    """

    scores: Tensor
    n_before: int
    near: Tensor
    looked: Looked
    changed: Tensor
    samples: Samples


@dataclass(frozen=True)
class Ablated:
    """What B ablations of one level leave to be looked at.

    Attributes:
        level, channels, fill: what is ablated: (B,) channels set to (B,) values.
        staying: the candidates of the proposals that stay where they are.
        survivors: the proposals of the level itself, anew.
        row, column: (R,) those of them that are among the best and in reach, by ablation.
    """

    level: str
    channels: Tensor
    fill: Tensor
    staying: list[Candidates]
    survivors: Survivors
    row: Tensor
    column: Tensor


class TwoStageTail:
    """The tail of a two-stage detector behind its pyramid.

    Exact, for targets that look no further than their reach: an ablation changes the proposals of its own level,
    the features pooled from it, and which proposals of the other levels are among the best; everything else is kept.
    """

    cpu_most = 16
    details: ClassVar[Mapping[str, str]] = {"kind": "two-stage"}

    def __init__(self, structure: TwoStage, levels: Mapping[str, Tensor], targets: Sequence[Target]) -> None:
        self.structure, self.levels, self.targets = structure, levels, targets
        self.reach = _reach_boxes(targets, structure.to_image)
        self.columns = _columns_needed(targets, structure)
        self.labels = None if self.columns is None else self.columns.cpu()
        stage, size = structure.proposals, structure.resized_size
        self.proposals = {name: LevelProposals(stage, name, level, size) for name, level in levels.items()}
        self.second = SecondStage(structure.boxes, levels)
        self.looks = {name: self._look_at(proposals) for name, proposals in self.proposals.items()}
        self._kept = {name: self._kept_without(name) for name in levels}
        self.there = self._clean_best()
        self.clean = self._clean_scores()

    def bytes_each(self, level: str) -> int:
        """A level's change as the convolution sees it, its candidates, and a share of pooled boxes."""
        feature = self.levels[level]
        places = feature.shape[-2] * feature.shape[-1]
        in_turn = takes_in_turn(feature.device)
        hidden = 1 if in_turn and self.structure.proposals.pointwise else 2 * feature.shape[1]
        bins = self.structure.boxes.output_size[0] * self.structure.boxes.output_size[1]
        pairs = 0 if in_turn else self.structure.proposals.n_before_nms**2
        return feature.element_size() * (places * (30 + hidden) + 300 * feature.shape[1] * bins + 2 * pairs)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        ablated = self.ablated(level, channels, fill)
        return self.answer([*ablated.staying, *self.look(ablated)], len(channels))

    def ablated(self, level: str, channels: Tensor, fill: Tensor) -> Ablated:
        """What the ablations leave, before the proposals that moved are looked at."""
        new = self.proposals[level].without(channels, fill)
        kept = self._kept[level]
        stays, comes = self._best(kept.scores, new.scores, kept.n_before)
        staying = []
        if len(kept.looked):
            again = self.second.again(kept.looked, kept.changed, kept.samples, level, channels, fill)
            boxes = kept.looked.boxes.expand(len(channels), -1, -1)
            staying.append(self.candidates(boxes, *again, stays[:, kept.near]))
        row, column = (comes & self._in_reach(new.boxes)).nonzero(as_tuple=True)
        return Ablated(level, channels, fill, staying, new, row, column)

    def look(self, ablated: Ablated, chosen: Tensor | slice = slice(None)) -> list[Candidates]:
        """The candidates of those proposals of the ablated level for which ``chosen`` (R,) is True, or all; if any."""
        row, column = ablated.row[chosen], ablated.column[chosen]
        if not len(row):
            return []
        boxes = ablated.survivors.boxes[row, column]
        seen = self.second.without(boxes, ablated.level, ablated.channels[row], ablated.fill[row])
        return [self.candidates(*_padded(row, len(ablated.channels), boxes, *seen))]

    # -- the clean pass, once ------------------------------------------------------------------------------------

    def _look_at(self, proposals: LevelProposals) -> LevelLook:
        survivors = proposals.clean
        alive = survivors.scores[0] > -torch.inf
        boxes = survivors.boxes[0, alive]
        near = self._in_reach(boxes).nonzero().flatten()
        return LevelLook(survivors.scores[0, alive], near, self.second.clean(boxes[near]))

    def _kept_without(self, level: str) -> Kept:
        names = list(self.looks)
        others = [self.looks[name] for name in names if name != level]
        starts = _starts(others)
        own = self.looks[level]
        looked = Looked.together([own.looked.of(own.near[:0]), *[other.looked for other in others]])
        changed = self.second.pooled_from(level, looked.boxes).nonzero().flatten()
        return Kept(
            scores=torch.cat([own.scores[:0], *[other.scores for other in others]]),
            n_before=sum(len(self.looks[name].scores) for name in names[: names.index(level)]),
            near=torch.cat([own.near[:0], *[start + other.near for start, other in zip(starts, others)]]),
            looked=looked,
            changed=changed,
            samples=self.second.samples(looked.boxes[changed]),
        )

    def _clean_best(self) -> dict[str, Tensor]:
        """Level -> (n,) which of the proposals looked at are among the best of all levels."""
        looks = list(self.looks.values())
        scores = torch.cat([look.scores for look in looks])
        stays, _ = self._best(scores, scores.new_empty(1, 0), len(scores))
        return {name: stays[0, start + look.near] for (name, look), start in zip(self.looks.items(), _starts(looks))}

    def _clean_scores(self) -> Tensor:
        parts = [
            self.candidates(
                look.looked.boxes[None], look.looked.logits[None], look.looked.deltas[None], self.there[name][None]
            )
            for name, look in self.looks.items()
            if len(look.near)
        ]
        return self.answer(parts, 1)[:, 0]

    def standing(self, name: str) -> Looked:
        """The look at those of a level's proposals that are in reach and among the best of all levels."""
        return self.looks[name].looked.of(self.there[name])

    def qualities(self, probes: Sequence[Target], looked: Looked) -> Tensor:
        """(T, n) of proposals."""
        if not len(looked):  # a decoder may not know what to make of none
            return looked.boxes.new_zeros(len(probes), 0)
        there = torch.ones(1, len(looked), dtype=torch.bool, device=looked.boxes.device)
        candidates = self.candidates(looked.boxes[None], looked.logits[None], looked.deltas[None], there)
        return qualities_of(probes, candidates)

    # -- which proposals there are -------------------------------------------------------------------------------

    def _best(self, kept: Tensor, new: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
        """Which of the kept (N,) and the new (B, n) proposals are among the best of all levels: (B, N) and (B, n).

        -inf never is; of equal ones the earlier level's, as in the model, hence ``n_before``: the kept ones that come
        before the new.
        """
        batch = len(new)
        before, behind = kept[:n_before].expand(batch, -1), kept[n_before:].expand(batch, -1)
        scores = torch.cat([before, new, behind], 1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.structure.proposals.n_after_nms]
        best = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True) & (scores > -torch.inf)
        first, comes, last = best.split([n_before, new.shape[1], len(kept) - n_before], dim=1)
        return torch.cat([first, last], 1), comes

    def _in_reach(self, boxes: Tensor) -> Tensor:
        """Which boxes (..., 4) some target can be interested in: (...)."""
        if self.reach is None:
            return torch.ones(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
        target, reach = self.reach
        iou = box_iou((boxes * self.structure.to_image)[..., None, :], target.to(boxes))
        return (iou >= reach.to(boxes)).any(-1)

    # -- the targets' answer -------------------------------------------------------------------------------------

    def candidates(self, boxes: Tensor, logits: Tensor, deltas: Tensor, there: Tensor) -> Candidates:
        """Boxes (B, n, 4), logits (B, n, K), deltas (B, n, 4 K); ``there`` (B, n) says which count."""
        structure, (batch, n, n_classes) = self.structure, logits.shape
        probability = logits.softmax(-1)[..., 1:] * there[..., None]
        objectness = probability.sum(-1)
        labels = torch.arange(1, n_classes) if self.labels is None else self.labels
        own = deltas.unflatten(2, (n_classes, 4))[:, :, 1:]
        if self.columns is not None:
            chosen = self.columns - 1
            probability, own = probability[..., chosen], own[:, :, chosen]
        n_own = own.shape[2]
        placed = structure.boxes.decode(own.flatten(2).flatten(0, 1), boxes.flatten(0, 1))
        placed = box_ops.clip_boxes_to_image(placed, structure.resized_size).view(batch, n, n_own, 4)
        return Candidates(placed * structure.to_image, probability, objectness, labels, boxes * structure.to_image)

    def answer(self, parts: Sequence[Candidates], batch: int, targets: Sequence[Target] | None = None) -> Tensor:
        """(T, B) the scores of the targets, or of others of the same boxes."""
        targets = self.targets if targets is None else targets
        if not parts:
            return self.structure.to_image.new_zeros(len(targets), batch)
        together = Candidates(
            boxes=torch.cat([part.boxes for part in parts], 1),
            class_scores=torch.cat([part.class_scores for part in parts], 1),
            objectness=torch.cat([part.objectness for part in parts], 1),
            labels=parts[0].labels,
            proposals=torch.cat([part.proposals for part in parts if part.proposals is not None], 1),
        )
        return score_targets(targets, together)


def _starts(looks: Sequence[LevelLook]) -> list[int]:
    """Where each level's proposals begin when they follow one another."""
    starts = [0]
    for look in looks:
        starts.append(starts[-1] + len(look.scores))
    return starts[:-1]


def _padded(row: Tensor, batch: int, *columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, logits and deltas (R, ...) of R candidates, each of one ablation ``row``, as (B, n, ...); which count."""
    slot, n = slots(row, batch)
    padded = []
    for column in columns:
        wide = column.new_zeros(batch, n, *column.shape[1:])
        wide[row, slot] = column
        padded.append(wide)
    there = torch.zeros(batch, n, dtype=torch.bool, device=row.device)
    there[row, slot] = True
    boxes, logits, deltas = padded
    return boxes, logits, deltas, there


def _reach_boxes(targets: Sequence[Target], to_image: Tensor) -> tuple[Tensor, Tensor] | None:
    """Boxes (T, 4), image pixels, and reaches (T,) of the targets; None where one may look at every candidate."""
    boxes = [target for target in targets if isinstance(target, BoxTarget) and not target.ignores_reach]
    if len(boxes) < len(targets) or any(target.reach == 0 for target in boxes):
        return None
    return (
        to_image.new_tensor([list(target.box) for target in boxes]),
        to_image.new_tensor([target.reach for target in boxes]),
    )


def _columns_needed(targets: Sequence[Target], structure: TwoStage) -> Tensor | None:
    """The labels that the targets ask about; None where one looks at all classes.

    Raises:
        ValueError: the detector has no such label.
    """
    labels = labels_read(targets)
    if labels is None:
        return None
    unknown = [label for label in labels if not 1 <= label <= structure.boxes.n_classes]
    if unknown:
        raise ValueError(f"label must be one of the detector's {structure.boxes.n_classes} classes, got {unknown}")
    return torch.tensor(labels, device=structure.to_image.device)
