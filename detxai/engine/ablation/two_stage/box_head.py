"""The second stage under ablation: what one channel does to the classes and boxes of given proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.adapters.structure import BoxStage
from detxai.engine.ablation.two_stage.roi_align import FeatureTable, RoISamples, sample_boxes

ROWS_AT_ONCE = 2048  # boxes pooled and classified in one go: 100 MB of pooled features at 256 channels


@dataclass(frozen=True)
class BoxOutputs:
    """What the second stage puts out for n proposals.

    Attributes:
        boxes: (n, 4) xyxy, input pixels: the proposals.
        logits: (n, K) of the classes, the background first.
        deltas: (n, 4 K).
        linear: (n, D) the output of the head's first linear layer; D = 0 where it has none to keep.
    """

    boxes: Tensor
    logits: Tensor
    deltas: Tensor
    linear: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def cat(cls, parts: Sequence[BoxOutputs]) -> BoxOutputs:
        """The outputs of several sets of proposals, one set after another."""
        columns = zip(*[(part.boxes, part.logits, part.deltas, part.linear) for part in parts])
        return cls(*(torch.cat(column) for column in columns))

    def select(self, places: Tensor) -> BoxOutputs:
        """Those of some proposals: ``places`` are indices, or a mask (n,)."""
        return BoxOutputs(self.boxes[places], self.logits[places], self.deltas[places], self.linear[places])


class BoxHead:
    """Pools boxes from a pyramid and scores them: as the pyramid is, or with one channel ablated."""

    def __init__(self, stage: BoxStage, levels: Mapping[str, Tensor]) -> None:
        self.stage = stage
        self.levels = {name: levels[name] for name in stage.levels}
        self.table = FeatureTable.from_levels(levels, stage.levels)
        bins = stage.output_size[0] * stage.output_size[1]
        # the first layer's columns in the order of pooling, bin by bin: permuting the pooled features costs more
        linear = stage.first_linear
        self._by_bin = None if linear is None else linear.weight.unflatten(1, (-1, bins)).transpose(1, 2).flatten(1)

    def score_boxes(self, boxes: Tensor) -> BoxOutputs:
        """The outputs for boxes (n, 4) without any ablation."""
        parts = boxes.split(ROWS_AT_ONCE) if len(boxes) else (boxes,)
        return BoxOutputs.cat([self._score_boxes(part) for part in parts])

    def _score_boxes(self, boxes: Tensor) -> BoxOutputs:
        pooled = self.samples(boxes).pool(self.table.rows)
        linear = self._first_linear(pooled)
        if linear is None or self.stage.after_linear is None:
            return BoxOutputs(boxes, *self._predict(pooled), pooled.new_zeros(len(boxes), 0))
        return BoxOutputs(boxes, *self.stage.predict(self.stage.after_linear(linear)), linear)

    def score_ablated(self, boxes: Tensor, level: str, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) and deltas (n, 4 K) of boxes (n, 4), each with a channel (n,) of ``level`` set to ``fill``."""
        parts = [
            self._score_ablated(*part, level=level)
            for part in zip(boxes.split(ROWS_AT_ONCE), channels.split(ROWS_AT_ONCE), fill.split(ROWS_AT_ONCE))
        ]
        logits, deltas = (torch.cat(column) for column in zip(*parts))
        return logits, deltas

    def _score_ablated(self, boxes: Tensor, channels: Tensor, fill: Tensor, *, level: str) -> tuple[Tensor, Tensor]:
        samples = self.samples(boxes)
        pooled = samples.pool(self.table.rows)
        here = self.pooled_from(level, boxes).nonzero().flatten()
        pooled[here, :, channels[here]] = fill[here, None] * samples.total_weight()[here].to(pooled.dtype)
        return self._predict(pooled)

    def rescore_fixed(
        self, clean: BoxOutputs, changed: Tensor, samples: RoISamples, level: str, channels: Tensor, fill: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, n, K) and deltas (B, n, 4 K) of boxes that stay where they are, for each of B channels.

        Args:
            clean: their outputs without any ablation.
            changed: (m,) those pooled from ``level``; the others keep their outputs.
            samples: of those.
        """
        batch = len(channels)
        logits, deltas = clean.logits.expand(batch, -1, -1), clean.deltas.expand(batch, -1, -1)
        if not len(changed):
            return logits, deltas
        if clean.linear.shape[1] and self.stage.first_linear is not None and self.stage.after_linear is not None:
            change = samples.pool(self._channel_change(level, channels, fill))  # (m, bins, B)
            weights = self.stage.first_linear.weight.unflatten(1, (-1, samples.bins))[:, channels]  # (D, B, bins)
            linear = clean.linear[changed] + change.permute(2, 0, 1) @ weights.permute(1, 2, 0)
            new_logits, new_deltas = self.stage.predict(self.stage.after_linear(linear.flatten(0, 1)))
        else:
            row = torch.arange(batch, device=changed.device).repeat_interleave(len(changed))
            boxes = clean.boxes[changed].repeat(batch, 1)
            new_logits, new_deltas = self.score_ablated(boxes, level, channels[row], fill[row])
        logits, deltas = logits.clone(), deltas.clone()  # the clean outputs stay as they are
        logits[:, changed] = new_logits.unflatten(0, (batch, -1)).to(logits.dtype)
        deltas[:, changed] = new_deltas.unflatten(0, (batch, -1)).to(deltas.dtype)
        return logits, deltas

    def pooled_from(self, level: str, boxes: Tensor) -> Tensor:
        """(n,) bool, which boxes are pooled from ``level``; none where only proposals are read from it."""
        names = list(self.stage.levels)
        return self._level_of(boxes) == (names.index(level) if level in names else -1)

    def samples(self, boxes: Tensor) -> RoISamples:
        """Where boxes (n, 4) are sampled in the feature table."""
        level = self._level_of(boxes)
        return sample_boxes(self.table, boxes, level, self.stage.output_size, self.stage.sampling_ratio)

    def _level_of(self, boxes: Tensor) -> Tensor:
        if not len(boxes):
            return torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return self.stage.level_of(boxes)

    def _first_linear(self, pooled: Tensor) -> Tensor | None:
        if self._by_bin is None or self.stage.first_linear is None:
            return None
        return F.linear(pooled.flatten(1), self._by_bin, self.stage.first_linear.bias)

    def _predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas from pooled features (n, bins, C)."""
        linear = self._first_linear(pooled)
        if linear is not None and self.stage.after_linear is not None:
            return self.stage.predict(self.stage.after_linear(linear))
        return self.stage.predict(self.stage.head(pooled.transpose(1, 2).unflatten(2, self.stage.output_size)))

    def _channel_change(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        """(P, B) a table like ``table.rows`` that holds the change of one channel for each ablation."""
        start = 0
        for name, features in self.levels.items():
            if name == level:
                break
            start += features[0, 0].numel()
        feature = self.levels[level][0, channels].flatten(1)
        table = feature.new_zeros(len(self.table.rows), len(channels))
        table[start : start + feature.shape[1]] = (fill[:, None] - feature).t()
        return table
