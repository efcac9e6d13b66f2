"""The first stage under ablation: what one channel of one level does to the proposals of that level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import boxes as box_ops

from detxai.adapters.structure import ProposalStage
from detxai.engine.ablation.two_stage.nms import suppress
from detxai.engine.batching import prefers_loop

CPU_TILE = 512  # places at once: their hidden features (256 of them) then stay in a CPU's nearest caches


@dataclass(frozen=True)
class Proposals:
    """The proposals of one level after its own non-maximum suppression, for B ablations.

    Attributes:
        boxes: (B, n, 4) xyxy, input pixels, clipped to the image.
        scores: (B, n) probability; -inf where a proposal was dropped or suppressed.
        anchors: (B, n) which anchor each comes from.
    """

    boxes: Tensor
    scores: Tensor
    anchors: Tensor


class LevelProposals:
    """One level's part of the proposal stage: what the level gives now, and what it would give without a channel."""

    def __init__(self, stage: ProposalStage, name: str, level: Tensor, image_size: tuple[int, int]) -> None:
        self.stage, self.level, self.image_size = stage, level, image_size
        self.anchors = stage.anchors[name]
        linear = stage.convolution(level)  # what a change of one channel is added to
        hidden = stage.after(linear.clone())
        # (places, O), so that a portion of places is a block of memory; (1, O, h, w) where all are needed at once
        self.linear = linear[0].flatten(1).t().contiguous() if stage.pointwise else linear
        logits = _by_anchor(stage.objectness(hidden))
        self.clean = self._best_proposals(logits, lambda best: self._deltas_at(hidden, best))

    def ablated(self, channels: Tensor, fill: Tensor) -> Proposals:
        """The proposals with one channel set to ``fill``, for each of B channels."""
        weights, patches = self._change(channels, fill)
        if self.stage.pointwise:
            logits = self._logits(weights, patches)
            return self._best_proposals(logits, lambda best: self._deltas_recomputed(weights, patches, best))
        hidden = self._hidden(weights, patches)
        logits = _by_anchor(self.stage.objectness(hidden))
        return self._best_proposals(logits, lambda best: self._deltas_at(hidden, best))

    def ablated_at_anchors(self, anchors: Tensor, channels: Tensor, fill: Tensor) -> Proposals:
        """The same, as if these anchors (n,) were all there are."""
        best = anchors.expand(len(channels), -1)
        places = anchors // self.stage.objectness.out_channels
        if self.stage.pointwise:
            around = self._patches_at(places, channels, fill)
            hidden = self._hidden_at_places(self._weights(channels), around, places.expand(len(channels), -1))
        else:
            hidden = self._hidden(*self._change(channels, fill)).flatten(2)[:, :, places].transpose(1, 2)
        logits = _conv1x1(self.stage.objectness, hidden)
        own = (best % self.stage.objectness.out_channels)[..., None]
        return self._suppressed(logits.gather(2, own)[..., 0], best, self._own_deltas(hidden, best))

    def _change(self, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution's weights (B, O, k * k) of the channels, and their changes' patches (B, k * k, places)."""
        kind = self.linear.dtype  # autocast leaves products with an ``out`` alone
        return self._weights(channels).to(kind), self._patches(channels, fill).to(kind)

    def _weights(self, channels: Tensor) -> Tensor:
        return self.stage.convolution.weight[:, channels].transpose(0, 1).flatten(2)

    def _hidden(self, weights: Tensor, patches: Tensor) -> Tensor:
        """(B, O', h, w) the hidden features of all places."""
        return self.stage.after(self.linear + (weights @ patches).unflatten(2, self.level.shape[-2:]))

    def _patches(self, channels: Tensor, fill: Tensor) -> Tensor:
        """(B, k * k, places): the change of the channel as the convolution sees it at each place."""
        change = fill[:, None, None] - self.level[0, channels]
        return F.unfold(change[:, None], self.stage.convolution.kernel_size, padding=self._padding)

    def _patches_at(self, places: Tensor, channels: Tensor, fill: Tensor) -> Tensor:
        """(B, k * k, n): the same at some places (n,) only."""
        (height, width), (down, across) = self.stage.convolution.kernel_size, self._padding
        change = F.pad(fill[:, None, None] - self.level[0, channels], (across, across, down, down))
        columns = self.level.shape[-1]
        y = places // columns + torch.arange(height, device=places.device)[:, None]
        x = places % columns + torch.arange(width, device=places.device)[:, None]
        return change[:, y[:, None], x[None]].flatten(1, 2)

    @property
    def _padding(self) -> tuple[int, int]:
        padding = self.stage.convolution.padding  # a structure has none by name
        return (padding[0], padding[1]) if isinstance(padding, tuple) else (0, 0)

    def _logits(self, weights: Tensor, patches: Tensor) -> Tensor:
        """(B, anchors) objectness, place by place, so that the hidden features of all places are never held."""
        if not prefers_loop(self.linear.device):
            hidden = torch.baddbmm(self.linear, patches.transpose(1, 2), weights.transpose(1, 2))
            return _conv1x1(self.stage.objectness, self.stage.after(hidden)).flatten(1)
        predict, bias = self.stage.objectness.weight.flatten(1), self.stage.objectness.bias
        logits = self.linear.new_empty(len(weights), len(predict), len(self.linear))
        tile = self.linear.new_empty(CPU_TILE, self.linear.shape[1])
        for start in range(0, len(self.linear), CPU_TILE):
            before = self.linear[start : start + CPU_TILE]
            part = slice(start, start + len(before))
            for b in range(len(weights)):  # a batched product of such thin matrices is slow on a CPU
                hidden = torch.addmm(before, patches[b, :, part].t(), weights[b].t(), out=tile[: len(before)])
                logits[b, :, part] = predict @ self.stage.after(hidden).t()
        if bias is not None:
            logits += bias[:, None]
        return logits.transpose(1, 2).flatten(1)

    def _hidden_at_places(self, weights: Tensor, around: Tensor, place: Tensor) -> Tensor:
        """(B, n, O') the hidden features of some places (B, n) only, from the changes around them (B, k * k, n)."""
        return self.stage.after(torch.baddbmm(self.linear[place], around.transpose(1, 2), weights.transpose(1, 2)))

    def _deltas_recomputed(self, weights: Tensor, patches: Tensor, best: Tensor) -> Tensor:
        """(B, n, 4) the box deltas of the best anchors only, from hidden features computed again."""
        place = best // self.stage.objectness.out_channels
        around = patches.gather(2, place[:, None].expand(-1, patches.shape[1], -1))
        return self._own_deltas(self._hidden_at_places(weights, around, place), best)

    def _deltas_at(self, hidden: Tensor, best: Tensor) -> Tensor:
        """The same from the hidden features (B, O', h, w) of all places."""
        return self._own_deltas(_at_places(hidden, best // self.stage.objectness.out_channels), best)

    def _own_deltas(self, hidden: Tensor, best: Tensor) -> Tensor:
        """(B, n, 4) of the anchors ``best``, from the hidden features (B, n, O') of their places."""
        n_anchors = self.stage.objectness.out_channels
        per_anchor = _conv1x1(self.stage.deltas, hidden).unflatten(2, (n_anchors, 4))
        mine = (best % n_anchors)[..., None, None].expand(-1, -1, 1, 4)
        return per_anchor.gather(2, mine)[:, :, 0]

    def _best_proposals(self, logits: Tensor, deltas_of: Callable[[Tensor], Tensor]) -> Proposals:
        best_logits, best = logits.topk(min(self.stage.n_before_nms, logits.shape[1]), dim=1)
        return self._suppressed(best_logits, best, deltas_of(best))

    def _suppressed(self, logits: Tensor, best: Tensor, deltas: Tensor) -> Proposals:
        """Of the anchors ``best`` (B, n), with their logits (B, n) and deltas (B, n, 4)."""
        stage = self.stage
        boxes = stage.decode(deltas.flatten(0, 1), self.anchors[best].flatten(0, 1))
        boxes = box_ops.clip_boxes_to_image(boxes, self.image_size).unflatten(0, best.shape)
        scores = logits.sigmoid()
        sides = boxes[..., 2:] - boxes[..., :2]
        valid = (sides >= stage.min_size).all(-1) & (scores >= stage.score_threshold)
        keep = suppress(boxes, scores, valid, stage.nms_threshold)
        return Proposals(boxes, scores.masked_fill(~keep, -torch.inf), best)


def _at_places(hidden: Tensor, place: Tensor) -> Tensor:
    """(B, n, O') some places (B, n) of the hidden features (B, O', h, w)."""
    return hidden.flatten(2).gather(2, place[:, None].expand(-1, hidden.shape[1], -1)).transpose(1, 2)


def _conv1x1(layer: nn.Conv2d, hidden: Tensor) -> Tensor:
    """(B, n, outputs) of a 1x1 convolution, of n places by themselves."""
    return F.linear(hidden, layer.weight.flatten(1), layer.bias)


def _by_anchor(predictions: Tensor) -> Tensor:
    """(B, A, h, w) logits as (B, h * w * A), in the order of the anchors."""
    return predictions.permute(0, 2, 3, 1).flatten(1)
