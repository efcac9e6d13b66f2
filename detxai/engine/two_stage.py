"""A two-stage detector under ablation: proposals of one level, then a look at those that matter to some target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops

from detxai.adapters.structure import BoxStage, TwoStage
from detxai.detections import Candidates
from detxai.engine.proposing import LevelProposals, Survivors
from detxai.engine.roi_align import FeatureTable, Samples, sample_boxes
from detxai.geometry import box_iou
from detxai.targets import BoxTarget, Target, score_targets

ROWS_AT_ONCE = 2048  # boxes pooled and classified in one go: 100 MB of pooled features at 256 channels


@dataclass(frozen=True)
class Kept:
    """Proposals that an ablation of one level leaves in place, and what the clean pass made of them.

    Attributes:
        boxes: (M, 4) input pixels; those within some target's reach.
        logits, deltas: (M, K) and (M, 4 K).
        changed: (M1,) which of them are pooled from the ablated level.
        samples: where those are sampled.
        linear: (M1, D) their output of the first linear layer; None where the head has none.
        scores: (N,) of all proposals of other levels, in reach or not: they compete for the last places.
        place: (M,) of those in reach among the N.
        n_before: how many of the N belong to levels before the ablated one.
    """

    boxes: Tensor
    logits: Tensor
    deltas: Tensor
    changed: Tensor
    samples: Samples
    linear: Tensor | None
    scores: Tensor
    place: Tensor
    n_before: int


class TwoStageTail:
    """The tail of a two-stage detector behind its pyramid.

    Exact, for targets that look no further than their reach: an ablation changes the proposals of its own level,
    the features pooled from it, and which proposals of the other levels are among the best; everything else is kept.
    """

    def __init__(self, structure: TwoStage, levels: Mapping[str, Tensor], targets: Sequence[Target]) -> None:
        self.structure, self.levels, self.targets = structure, levels, targets
        self.reach = _reach_boxes(targets, structure.to_image)
        self.columns = _columns_needed(targets)
        stage, size = structure.proposals, structure.resized_size
        self.proposals = {name: LevelProposals(stage, name, level, size) for name, level in levels.items()}
        self.table = FeatureTable.of(levels, structure.boxes.levels)
        self._kept: dict[str, Kept] = {}
        self._looked = self._look_at_clean()
        self.clean = self._clean_scores()

    def bytes_each(self, level: str) -> int:
        """A level's change as the convolution sees it, its candidates, and a share of pooled boxes."""
        feature = self.levels[level]
        places = feature.shape[-2] * feature.shape[-1]
        hidden = 1 if self.structure.proposals.pointwise and feature.device.type == "cpu" else 2 * feature.shape[1]
        per_box = feature.shape[1] * self.structure.boxes.output_size[0] * self.structure.boxes.output_size[1]
        return feature.element_size() * (places * (30 + hidden) + 300 * per_box)

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        new = self.proposals[level].without(channels, fill)
        kept = self._kept_without(level)
        stays, comes = self._best(kept.scores, new.scores, kept.n_before)
        parts = []
        if len(kept.boxes):
            logits, deltas = self._kept_predictions(kept, level, channels, fill)
            parts.append(self._candidates(kept.boxes.expand(len(channels), -1, -1), logits, deltas, stays[:, kept.place]))
        row, column = (comes & self._in_reach(new.boxes)).nonzero(as_tuple=True)
        if len(row):
            boxes = new.boxes[row, column]
            logits, deltas = self._look(boxes, level, channels[row], fill[row])
            parts.append(self._candidates(*_padded(row, len(channels), boxes, logits, deltas)))
        return self._answer(parts, len(channels))

    # -- the clean pass, once ------------------------------------------------------------------------------------

    def _look_at_clean(self) -> dict[str, tuple[Tensor, ...]]:
        """For each level, its surviving proposals: scores of all; boxes, logits, deltas, linear of those in reach."""
        looked = {}
        for name, level in self.proposals.items():
            survivors: Survivors = level.clean
            alive = survivors.scores[0].isfinite()
            scores = survivors.scores[0, alive]
            boxes = survivors.boxes[0, alive]
            near = self._in_reach(boxes).nonzero().flatten()
            logits, deltas, linear = self._look_clean(boxes[near])
            looked[name] = (scores, near, boxes[near], logits, deltas, linear)
        return looked

    def _clean_scores(self) -> Tensor:
        scores = torch.cat([entry[0] for entry in self._looked.values()])
        stays, _ = self._best(scores, scores.new_empty(1, 0), len(scores))
        starts = torch.tensor([0, *[len(entry[0]) for entry in self._looked.values()]]).cumsum(0).tolist()
        parts = []
        for start, (_, near, boxes, logits, deltas, _) in zip(starts, self._looked.values()):
            if len(near):
                parts.append(self._candidates(boxes[None], logits[None], deltas[None], stays[:, start + near]))
        return self._answer(parts, 1)[:, 0]

    def _kept_without(self, level: str) -> Kept:
        """What the other levels keep when ``level`` is ablated."""
        if level not in self._kept:
            names = list(self._looked)
            others = [self._looked[name] for name in names if name != level]
            like = self._looked[level]
            starts = torch.tensor([0, *[len(entry[0]) for entry in others]]).cumsum(0).tolist()
            place = [start + entry[1] for start, entry in zip(starts, others)]
            columns = [torch.cat([entry[i] for entry in others] or [like[i][:0]]) for i in (0, 2, 3, 4, 5)]
            scores, boxes, logits, deltas, linear = columns
            changed = (self._level_of(boxes) == self._place_of(level)).nonzero().flatten()
            self._kept[level] = Kept(
                boxes=boxes,
                logits=logits,
                deltas=deltas,
                changed=changed,
                samples=self._samples(boxes[changed]),
                linear=linear[changed] if self.structure.boxes.first_linear is not None else None,
                scores=scores,
                place=torch.cat(place or [like[1][:0]]),
                n_before=sum(len(self._looked[name][0]) for name in names[: names.index(level)]),
            )
        return self._kept[level]

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

    # -- what the second stage makes of them ---------------------------------------------------------------------

    def _level_of(self, boxes: Tensor) -> Tensor:
        if not len(boxes):
            return torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return self.structure.boxes.level_of(boxes)

    def _place_of(self, level: str) -> int:
        """The level's place among those pooled from, -1 where it serves the proposals alone."""
        names = list(self.structure.boxes.levels)
        return names.index(level) if level in names else -1

    def _samples(self, boxes: Tensor) -> Samples:
        stage = self.structure.boxes
        return sample_boxes(self.table, boxes, self._level_of(boxes), stage.output_size, stage.sampling_ratio)

    def _pooled(self, boxes: Tensor) -> tuple[Tensor, Samples]:
        samples = self._samples(boxes)
        return samples.pool(self.table.rows).transpose(1, 2), samples

    def _look_clean(self, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stage = self.structure.boxes
        parts = []
        for part in boxes.split(ROWS_AT_ONCE) if len(boxes) else [boxes]:
            pooled, _ = self._pooled(part)
            if stage.first_linear is not None and stage.after_linear is not None:
                linear = stage.first_linear(pooled.flatten(1))
                parts.append((*stage.predict(stage.after_linear(linear)), linear))
            else:
                parts.append((*stage.predict(stage.head(_as_maps(pooled, stage))), pooled.new_zeros(len(part), 0)))
        return tuple(torch.cat(column) for column in zip(*parts))  # type: ignore[return-value]

    def _look(self, boxes: Tensor, level: str, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of boxes (n, 4), each with a channel (n,) of ``level`` set to ``fill`` (n,)."""
        stage = self.structure.boxes
        parts = []
        for part, channel, value in zip(
            boxes.split(ROWS_AT_ONCE), channels.split(ROWS_AT_ONCE), fill.split(ROWS_AT_ONCE)
        ):
            pooled, samples = self._pooled(part)
            here = (self._level_of(part) == self._place_of(level)).nonzero().flatten()
            constant = value[here, None] * samples.total()[here].to(pooled.dtype)
            pooled[here, channel[here]] = constant
            parts.append(stage.predict(stage.head(_as_maps(pooled, stage))))
        logits, deltas = (torch.cat(column) for column in zip(*parts))
        return logits, deltas

    def _kept_predictions(self, kept: Kept, level: str, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, M, K) and deltas (B, M, 4 K) of proposals that kept their place."""
        batch = len(channels)
        logits = kept.logits.expand(batch, -1, -1)
        deltas = kept.deltas.expand(batch, -1, -1)
        if not len(kept.changed):
            return logits, deltas
        stage = self.structure.boxes
        if kept.linear is not None and stage.first_linear is not None and stage.after_linear is not None:
            change = kept.samples.pool(self._channel_change(level, channels, fill))  # (M1, bins, B)
            bins = change.shape[1]
            weights = stage.first_linear.weight.unflatten(1, (-1, bins))[:, channels]  # (D, B, bins)
            linear = kept.linear + change.permute(2, 0, 1) @ weights.permute(1, 2, 0)
            new_logits, new_deltas = stage.predict(stage.after_linear(linear.flatten(0, 1)))
        else:
            boxes = kept.boxes[kept.changed].repeat(batch, 1)
            of = torch.arange(batch, device=boxes.device).repeat_interleave(len(kept.changed))
            new_logits, new_deltas = self._look(boxes, level, channels[of], fill[of])
        # index_put on clones of the expanded: the clean values stay as they are
        logits, deltas = logits.clone(), deltas.clone()
        logits[:, kept.changed] = new_logits.unflatten(0, (batch, -1)).to(logits.dtype)
        deltas[:, kept.changed] = new_deltas.unflatten(0, (batch, -1)).to(deltas.dtype)
        return logits, deltas

    def _channel_change(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        """(P, B) a table like ``table.rows`` that holds the change of one channel for each ablation."""
        place = self._place_of(level)
        start = int(sum(self.levels[n][0, 0].numel() for n in list(self.structure.boxes.levels)[:place]))
        feature = self.levels[level][0, channels].flatten(1)
        table = feature.new_zeros(len(self.table.rows), len(channels))
        table[start : start + feature.shape[1]] = (fill[:, None] - feature).t()
        return table

    # -- the targets' answer -------------------------------------------------------------------------------------

    def _candidates(self, boxes: Tensor, logits: Tensor, deltas: Tensor, counts: Tensor) -> Candidates:
        """Boxes (B, n, 4), logits (B, n, K), deltas (B, n, 4 K); ``counts`` (B, n) says which there are."""
        structure, (batch, n, n_classes) = self.structure, logits.shape
        probability = logits.softmax(-1)[..., 1:] * counts[..., None]
        objectness = probability.sum(-1)
        labels = torch.arange(1, n_classes, device=logits.device)
        own = deltas.unflatten(2, (n_classes, 4))[:, :, 1:]
        if self.columns is not None:
            chosen = self.columns.to(logits.device) - 1
            probability, own, labels = probability[..., chosen], own[:, :, chosen], labels[chosen]
        n_own = own.shape[2]
        placed = structure.boxes.decode(own.flatten(2).flatten(0, 1), boxes.flatten(0, 1))
        placed = box_ops.clip_boxes_to_image(placed, structure.resized_size).view(batch, n, n_own, 4)
        return Candidates(
            placed * structure.to_image, probability, objectness, labels, boxes * structure.to_image
        )

    def _answer(self, parts: Sequence[Candidates], batch: int) -> Tensor:
        if not parts:
            return self.table.rows.new_zeros(len(self.targets), batch)
        together = Candidates(
            boxes=torch.cat([part.boxes for part in parts], 1),
            class_scores=torch.cat([part.class_scores for part in parts], 1),
            objectness=torch.cat([part.objectness for part in parts], 1),
            labels=parts[0].labels,
            proposals=torch.cat([part.proposals for part in parts if part.proposals is not None], 1),
        )
        return score_targets(self.targets, together)


def _as_maps(pooled: Tensor, stage: BoxStage) -> Tensor:
    """(n, C, bins) as (n, C, bins down, bins across)."""
    return pooled.unflatten(2, stage.output_size)


def _padded(row: Tensor, batch: int, *columns: Tensor) -> tuple[Tensor, ...]:
    """Values (R, ...) of R candidates, each of one ablation ``row``, as (B, n, ...), and which are there (B, n)."""
    counts = torch.bincount(row, minlength=batch)
    slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    n = int(counts.max())
    padded = []
    for column in columns:
        wide = column.new_zeros(batch, n, *column.shape[1:])
        wide[row, slot] = column
        padded.append(wide)
    there = torch.zeros(batch, n, dtype=torch.bool, device=row.device)
    there[row, slot] = True
    return (*padded, there)


def _reach_boxes(targets: Sequence[Target], to_image: Tensor) -> tuple[Tensor, Tensor] | None:
    """Boxes (T, 4), image pixels, and reaches (T,) of the targets; None where one may look at every candidate."""
    boxes = [target for target in targets if isinstance(target, BoxTarget)]
    if len(boxes) < len(targets) or any(target.reach == 0 for target in boxes):
        return None
    return (
        to_image.new_tensor([list(target.box) for target in boxes]),
        to_image.new_tensor([target.reach for target in boxes]),
    )


def _columns_needed(targets: Sequence[Target]) -> Tensor | None:
    """The labels that the targets ask about; None where one looks at all classes."""
    if not all(isinstance(target, BoxTarget) and not target.reads_all_classes for target in targets):
        return None
    return torch.tensor(sorted({target.label for target in targets if isinstance(target, BoxTarget)}))
