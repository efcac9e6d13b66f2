"""The second stage under ablation: what one channel does to the classes and boxes of given proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.adapters.structure import BoxStage
from detxai.engine.ablation.two_stage.roi_align import FeatureTable, Samples, sample_boxes

ROWS_AT_ONCE = 2048  # boxes pooled and classified in one go: 100 MB of pooled features at 256 channels


@dataclass(frozen=True)
class Looked:
    """What the second stage made of n proposals.

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
    def together(cls, parts: list[Looked]) -> Looked:
        """Several lots of proposals as one."""
        columns = zip(*[(part.boxes, part.logits, part.deltas, part.linear) for part in parts])
        return cls(*(torch.cat(column) for column in columns))

    def of(self, chosen: Tensor) -> Looked:
        """Some of them."""
        return Looked(self.boxes[chosen], self.logits[chosen], self.deltas[chosen], self.linear[chosen])


class SecondStage:
    """Pools boxes from a pyramid and looks at them, as it is or with one channel changed."""

    def __init__(self, stage: BoxStage, levels: Mapping[str, Tensor]) -> None:
        self.stage = stage
        self.levels = {name: levels[name] for name in stage.levels}
        self.table = FeatureTable.of(levels, stage.levels)
        bins = stage.output_size[0] * stage.output_size[1]
        # the first layer's columns in the order of pooling, bin by bin: turning the pooled features costs more
        linear = stage.first_linear
        self._turned = None if linear is None else linear.weight.unflatten(1, (-1, bins)).transpose(1, 2).flatten(1)

    def clean(self, boxes: Tensor) -> Looked:
        """The look at boxes (n, 4) without any ablation."""
        parts = boxes.split(ROWS_AT_ONCE) if len(boxes) else (boxes,)
        return Looked.together([self._clean(part) for part in parts])

    def _clean(self, boxes: Tensor) -> Looked:
        pooled = self.samples(boxes).pool(self.table.rows)
        linear = self._first_linear(pooled)
        if linear is None or self.stage.after_linear is None:
            return Looked(boxes, *self._predict(pooled), pooled.new_zeros(len(boxes), 0))
        return Looked(boxes, *self.stage.predict(self.stage.after_linear(linear)), linear)

    def without(self, boxes: Tensor, level: str, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) and deltas (n, 4 K) of boxes (n, 4), each with a channel (n,) of ``level`` set to ``fill``."""
        parts = [
            self._without(*part, level=level)
            for part in zip(boxes.split(ROWS_AT_ONCE), channels.split(ROWS_AT_ONCE), fill.split(ROWS_AT_ONCE))
        ]
        logits, deltas = (torch.cat(column) for column in zip(*parts))
        return logits, deltas

    def _without(self, boxes: Tensor, channels: Tensor, fill: Tensor, *, level: str) -> tuple[Tensor, Tensor]:
        samples = self.samples(boxes)
        pooled = samples.pool(self.table.rows)
        here = self.pooled_from(level, boxes).nonzero().flatten()
        pooled[here, :, channels[here]] = fill[here, None] * samples.total()[here].to(pooled.dtype)
        return self._predict(pooled)

    def again(
        self, looked: Looked, changed: Tensor, samples: Samples, level: str, channels: Tensor, fill: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, n, K) and deltas (B, n, 4 K) of boxes that stay where they are, for each of B channels.

        Args:
            looked: the clean look at them.
            changed: (m,) those pooled from ``level``; the others keep what the clean look saw.
            samples: of those.
        """
        batch = len(channels)
        logits, deltas = looked.logits.expand(batch, -1, -1), looked.deltas.expand(batch, -1, -1)
        if not len(changed):
            return logits, deltas
        if looked.linear.shape[1] and self.stage.first_linear is not None and self.stage.after_linear is not None:
            change = samples.pool(self._channel_change(level, channels, fill))  # (m, bins, B)
            weights = self.stage.first_linear.weight.unflatten(1, (-1, samples.bins))[:, channels]  # (D, B, bins)
            linear = looked.linear[changed] + change.permute(2, 0, 1) @ weights.permute(1, 2, 0)
            new_logits, new_deltas = self.stage.predict(self.stage.after_linear(linear.flatten(0, 1)))
        else:
            row = torch.arange(batch, device=changed.device).repeat_interleave(len(changed))
            boxes = looked.boxes[changed].repeat(batch, 1)
            new_logits, new_deltas = self.without(boxes, level, channels[row], fill[row])
        logits, deltas = logits.clone(), deltas.clone()  # the clean look stays as it is
        logits[:, changed] = new_logits.unflatten(0, (batch, -1)).to(logits.dtype)
        deltas[:, changed] = new_deltas.unflatten(0, (batch, -1)).to(deltas.dtype)
        return logits, deltas

    def pooled_from(self, level: str, boxes: Tensor) -> Tensor:
        """(n,) which boxes are pooled from ``level``; none where it serves the proposals alone."""
        names = list(self.stage.levels)
        return self._level_of(boxes) == (names.index(level) if level in names else -1)

    def samples(self, boxes: Tensor) -> Samples:
        """Where boxes (n, 4) are sampled in the table of levels."""
        level = self._level_of(boxes)
        return sample_boxes(self.table, boxes, level, self.stage.output_size, self.stage.sampling_ratio)

    def _level_of(self, boxes: Tensor) -> Tensor:
        if not len(boxes):
            return torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return self.stage.level_of(boxes)

    def _first_linear(self, pooled: Tensor) -> Tensor | None:
        if self._turned is None or self.stage.first_linear is None:
            return None
        return F.linear(pooled.flatten(1), self._turned, self.stage.first_linear.bias)

    def _predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """From pooled features (n, bins, C)."""
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
