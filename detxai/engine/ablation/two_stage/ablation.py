"""A two-stage detector with one channel ablated: what the exact tail and its two approximations compute with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops

from detxai.adapters.structure import TwoStage
from detxai.detections import Candidates
from detxai.engine.ablation.padding import pad_rows
from detxai.engine.ablation.quality_targets import candidate_qualities, labels_read
from detxai.engine.ablation.two_stage.box_head import BoxHead, BoxOutputs
from detxai.engine.ablation.two_stage.proposals import LevelProposals, Proposals
from detxai.engine.ablation.two_stage.roi_align import RoISamples
from detxai.engine.batching import prefers_loop
from detxai.geometry import box_iou
from detxai.targets import BoxTarget, Target, score_targets


@dataclass(frozen=True)
class CleanLevel:
    """One level's proposals without any ablation.

    Attributes:
        scores: (N,) of those that survived the level's own non-maximum suppression.
        in_reach: (n,) indices of those within some target's reach.
        outputs: of the box head, for those in reach.
    """

    scores: Tensor
    in_reach: Tensor
    outputs: BoxOutputs


@dataclass(frozen=True)
class UnablatedLevels:
    """The proposals of all levels but the ablated one, which stay where they are.

    Attributes:
        scores: (N,) in reach or not: they compete for the last places.
        n_before: how many of them belong to levels before the ablated one.
        in_reach: (n,) indices of those within some target's reach.
        outputs: of the box head without any ablation, for those in reach.
        changed: (m,) indices of those in reach that are pooled from the ablated level.
        samples: where those are sampled.
    """

    scores: Tensor
    n_before: int
    in_reach: Tensor
    outputs: BoxOutputs
    changed: Tensor
    samples: RoISamples


@dataclass(frozen=True)
class LevelAblation:
    """B ablations of one level, before its own proposals are scored.

    Attributes:
        level, channels, fill: what is ablated: (B,) channels set to (B,) values.
        fixed: the candidates of the other levels' proposals, which stay where they are; one batch or none.
        proposals: those of the ablated level.
        row, column: (R,) indices of the ablations and proposals that are among the best of all levels and in reach.
    """

    level: str
    channels: Tensor
    fill: Tensor
    fixed: list[Candidates]
    proposals: Proposals
    row: Tensor
    column: Tensor


class TwoStageAblation:
    """A two-stage detector behind its pyramid, any one channel of which can be ablated.

    An ablation changes the proposals of its own level, the features pooled from that level, and which proposals of the
    other levels are among the best; everything else is computed once.
    """

    def __init__(self, structure: TwoStage, levels: Mapping[str, Tensor], targets: Sequence[Target]) -> None:
        self.structure, self.levels, self.targets = structure, levels, targets
        self.reach = _boxes_and_reaches(targets, structure.to_image)
        self.columns = _columns_read(targets, structure)
        self.labels = None if self.columns is None else self.columns.cpu()
        stage, size = structure.proposals, structure.resized_size
        self.proposals = {name: LevelProposals(stage, name, level, size) for name, level in levels.items()}
        self.box_head = BoxHead(structure.boxes, levels)
        self.clean_levels = {name: self._score_clean(proposals) for name, proposals in self.proposals.items()}
        self._unablated = {name: self._unablated_levels(name) for name in levels}
        self.among_best = self._clean_among_best()
        self.clean = self._clean_scores()

    def ablate(self, level: str, channels: Tensor, fill: Tensor) -> LevelAblation:
        """The ablations of ``channels`` (B,) of a level, each set to ``fill`` (B,)."""
        proposals = self.proposals[level].ablated(channels, fill)
        others = self._unablated[level]
        others_kept, own_kept = self._among_best(others.scores, proposals.scores, others.n_before)
        fixed = []
        if len(others.outputs):
            rescored = self.box_head.rescore_fixed(
                others.outputs, others.changed, others.samples, level, channels, fill
            )
            boxes = others.outputs.boxes.expand(len(channels), -1, -1)
            fixed.append(self.candidates(boxes, *rescored, others_kept[:, others.in_reach]))
        row, column = (own_kept & self._in_reach(proposals.boxes)).nonzero(as_tuple=True)
        return LevelAblation(level, channels, fill, fixed, proposals, row, column)

    def score_moved(self, ablation: LevelAblation, chosen: Tensor | slice = slice(None)) -> list[Candidates]:
        """The candidates of the ablated level's proposals where ``chosen`` (R,) is True, or of all; one batch or none.

        Args:
            ablation: of one level.
            chosen: (R,) bool, which of ``ablation.row`` and ``ablation.column``.
        """
        row, column = ablation.row[chosen], ablation.column[chosen]
        if not len(row):
            return []
        boxes = ablation.proposals.boxes[row, column]
        outputs = self.box_head.score_ablated(boxes, ablation.level, ablation.channels[row], ablation.fill[row])
        (boxes, logits, deltas), filled = pad_rows(row, len(ablation.channels), boxes, *outputs)
        return [self.candidates(boxes, logits, deltas, filled)]

    def bytes_per_item(self, level: str) -> int:
        """Memory of one ablation: the change as the convolution reads it, the level's candidates, some pooled boxes."""
        feature = self.levels[level]
        cells = feature.shape[-2] * feature.shape[-1]
        loops = prefers_loop(feature.device)
        hidden = 1 if loops and self.structure.proposals.pointwise else 2 * feature.shape[1]
        bins = self.structure.boxes.output_size[0] * self.structure.boxes.output_size[1]
        pairs = 0 if loops else self.structure.proposals.n_before_nms**2
        return feature.element_size() * (cells * (30 + hidden) + 300 * feature.shape[1] * bins + 2 * pairs)

    # -- the clean pass, once ------------------------------------------------------------------------------------

    def _score_clean(self, level: LevelProposals) -> CleanLevel:
        survives = level.clean.scores[0] > -torch.inf
        boxes = level.clean.boxes[0, survives]
        in_reach = self._in_reach(boxes).nonzero().flatten()
        return CleanLevel(level.clean.scores[0, survives], in_reach, self.box_head.score_boxes(boxes[in_reach]))

    def _unablated_levels(self, level: str) -> UnablatedLevels:
        names = list(self.clean_levels)
        others = [self.clean_levels[name] for name in names if name != level]
        own = self.clean_levels[level]  # empty slices of it give a detector with a single level its types
        outputs = BoxOutputs.cat([own.outputs.select(own.in_reach[:0]), *[other.outputs for other in others]])
        in_reach = [start + other.in_reach for start, other in zip(_starts(others), others)]
        changed = self.box_head.pooled_from(level, outputs.boxes).nonzero().flatten()
        return UnablatedLevels(
            scores=torch.cat([own.scores[:0], *[other.scores for other in others]]),
            n_before=sum(len(self.clean_levels[name].scores) for name in names[: names.index(level)]),
            in_reach=torch.cat([own.in_reach[:0], *in_reach]),
            outputs=outputs,
            changed=changed,
            samples=self.box_head.samples(outputs.boxes[changed]),
        )

    def _clean_among_best(self) -> dict[str, Tensor]:
        """Level -> (n,) bool, which of its proposals in reach are among the best of all levels."""
        levels = list(self.clean_levels.values())
        best = self._highest(torch.cat([level.scores for level in levels])[None])[0]
        starts = _starts(levels)
        return {name: best[start + level.in_reach] for (name, level), start in zip(self.clean_levels.items(), starts)}

    def _clean_scores(self) -> Tensor:
        parts = [
            self._clean_candidates(level.outputs, self.among_best[name])
            for name, level in self.clean_levels.items()
            if len(level.in_reach)
        ]
        return self.score(parts, 1)[:, 0]

    def best_outputs(self, level: str) -> BoxOutputs:
        """The clean outputs for those of a level's proposals that are in reach and among the best of all levels."""
        return self.clean_levels[level].outputs.select(self.among_best[level])

    def qualities(self, quality_targets: Sequence[Target], outputs: BoxOutputs) -> Tensor:
        """(T, n) the quality of each of n proposals for each target."""
        if not len(outputs):  # a decoder may not accept an empty batch
            return outputs.boxes.new_zeros(len(quality_targets), 0)
        counts = torch.ones(len(outputs), dtype=torch.bool, device=outputs.boxes.device)
        return candidate_qualities(quality_targets, self._clean_candidates(outputs, counts))

    # -- which proposals there are -------------------------------------------------------------------------------

    def _among_best(self, others: Tensor, own: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
        """Which of the others (N,) and of a level's own (B, n) proposals are among the best: (B, N) and (B, n).

        Of equal scores the earlier level's wins, as in the model, so they are ranked in the order of the levels.

        Args:
            others: scores of the other levels' proposals.
            own: scores of the ablated level's proposals, for each of B ablations.
            n_before: how many of the others belong to levels before the ablated one.
        """
        before, behind = others[:n_before].expand(len(own), -1), others[n_before:].expand(len(own), -1)
        best = self._highest(torch.cat([before, own, behind], 1))
        before, own, behind = best.split([before.shape[1], own.shape[1], behind.shape[1]], dim=1)
        return torch.cat([before, behind], 1), own

    def _highest(self, scores: Tensor) -> Tensor:
        """(B, N) bool, the highest scores of each row, as many as the detector keeps; -inf is never among them."""
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.structure.proposals.n_after_nms]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True) & (scores > -torch.inf)

    def _in_reach(self, boxes: Tensor) -> Tensor:
        """(...) bool, which boxes (..., 4) some target can be interested in."""
        if self.reach is None:
            return torch.ones(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
        target, reach = self.reach
        iou = box_iou((boxes * self.structure.to_image)[..., None, :], target.to(boxes))
        return (iou >= reach.to(boxes)).any(-1)

    # -- candidates and scores -----------------------------------------------------------------------------------

    def _clean_candidates(self, outputs: BoxOutputs, counts: Tensor) -> Candidates:
        return self.candidates(outputs.boxes[None], outputs.logits[None], outputs.deltas[None], counts[None])

    def candidates(self, boxes: Tensor, logits: Tensor, deltas: Tensor, counts: Tensor) -> Candidates:
        """Boxes (B, n, 4), logits (B, n, K), deltas (B, n, 4 K); ``counts`` (B, n) says which are candidates at all."""
        structure, (batch, n, n_classes) = self.structure, logits.shape
        probability = logits.softmax(-1)[..., 1:] * counts[..., None]
        objectness = probability.sum(-1)
        labels = torch.arange(1, n_classes) if self.labels is None else self.labels
        own = deltas.unflatten(2, (n_classes, 4))[:, :, 1:]
        if self.columns is not None:
            column = self.columns - 1
            probability, own = probability[..., column], own[:, :, column]
        placed = structure.boxes.decode(own.flatten(2).flatten(0, 1), boxes.flatten(0, 1))
        placed = box_ops.clip_boxes_to_image(placed, structure.resized_size).view(batch, n, own.shape[2], 4)
        return Candidates(placed * structure.to_image, probability, objectness, labels, boxes * structure.to_image)

    def score(self, parts: Sequence[Candidates], batch: int, targets: Sequence[Target] | None = None) -> Tensor:
        """(T, B) the scores of the targets, or of others of the same boxes, among several sets of candidates."""
        targets = self.targets if targets is None else targets
        if not parts:
            return self.structure.to_image.new_zeros(len(targets), batch)
        return score_targets(targets, Candidates.cat(parts))


def _starts(levels: Sequence[CleanLevel]) -> list[int]:
    """Where each level's proposals begin when they follow one another."""
    starts = [0]
    for level in levels:
        starts.append(starts[-1] + len(level.scores))
    return starts[:-1]


def _boxes_and_reaches(targets: Sequence[Target], to_image: Tensor) -> tuple[Tensor, Tensor] | None:
    """Boxes (T, 4), image pixels, and reaches (T,) of the targets; None where one may read every candidate."""
    boxes = [target for target in targets if isinstance(target, BoxTarget) and not target.ignores_reach]
    if len(boxes) < len(targets) or any(target.reach == 0 for target in boxes):
        return None
    return (
        to_image.new_tensor([list(target.box) for target in boxes]),
        to_image.new_tensor([target.reach for target in boxes]),
    )


def _columns_read(targets: Sequence[Target], structure: TwoStage) -> Tensor | None:
    """The labels that the targets ask about; None where one reads all classes.

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
