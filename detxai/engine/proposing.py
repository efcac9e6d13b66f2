"""The first stage under ablation: what one channel of one level does to the proposals of that level."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import boxes as box_ops

from detxai.adapters.structure import ProposalStage

CPU_TILE = 512  # places at once: their hidden features (256 of them) then stay in a CPU's nearest caches


@dataclass(frozen=True)
class Survivors:
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
        self.linear = stage.convolution(level)  # (1, O, h, w): what a change of one channel is added to
        hidden = stage.after(self.linear.clone())
        logits = _by_anchor(stage.objectness(hidden))
        self.clean = self._survivors(logits, lambda best: self._deltas_at(hidden, best))

    def without(self, channels: Tensor, fill: Tensor) -> Survivors:
        """The survivors with one channel set to ``fill``, for each of B channels."""
        weights, patches = self._change(channels, fill)
        if not self.stage.pointwise:
            hidden = self._hidden(weights, patches)
            return self._survivors(_by_anchor(self.stage.objectness(hidden)), lambda b: self._deltas_at(hidden, b))
        return self._survivors(self._logits(weights, patches), lambda b: self._deltas_anew(weights, patches, b))

    def among(self, anchors: Tensor, channels: Tensor, fill: Tensor) -> Survivors:
        """The same, as if these anchors (n,) were all there are."""
        weights, patches = self._change(channels, fill)
        best = anchors.expand(len(channels), -1)
        place = anchors // self.stage.objectness.out_channels
        if self.stage.pointwise:
            hidden = self.stage.after(self.linear[0].flatten(1)[:, place] + weights @ patches[:, :, place])
        else:
            hidden = self._hidden(weights, patches).flatten(2)[:, :, place]
        logits = self.stage.objectness.weight.flatten(1) @ hidden
        if self.stage.objectness.bias is not None:
            logits = logits + self.stage.objectness.bias[:, None]
        own = (best % self.stage.objectness.out_channels)[:, None]
        deltas = self._own_anchor(self.stage.deltas.weight.flatten(1) @ hidden, best)
        return self._surviving(logits.gather(1, own)[:, 0], best, deltas)

    def _change(self, channels: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution's weights (B, O, k * k) of the channels, and their changes' patches (B, k * k, places)."""
        weights = self.stage.convolution.weight[:, channels].transpose(0, 1).flatten(2)
        return weights, self._patches(channels, fill)

    def _hidden(self, weights: Tensor, patches: Tensor) -> Tensor:
        """(B, O', h, w) the hidden features of all places."""
        return self.stage.after(self.linear + (weights @ patches).unflatten(2, self.level.shape[-2:]))

    def _patches(self, channels: Tensor, fill: Tensor) -> Tensor:
        """(B, k * k, places): the change of the channel as the convolution sees it at each place."""
        conv = self.stage.convolution
        change = fill[:, None, None] - self.level[0, channels]
        padding = conv.padding if isinstance(conv.padding, tuple) else 0  # a structure has no padding by name
        return F.unfold(change[:, None], conv.kernel_size, padding=padding)

    def _logits(self, weights: Tensor, patches: Tensor) -> Tensor:
        """(B, anchors) objectness, place by place, so that the hidden features of all places are never held."""
        before = self.linear[0].flatten(1)
        predict, bias = self.stage.objectness.weight.flatten(1), self.stage.objectness.bias
        places = before.shape[1]
        logits = before.new_empty(len(weights), len(predict), places)
        tile = CPU_TILE if before.device.type == "cpu" else places
        for start in range(0, places, tile):
            part = slice(start, start + tile)
            if before.device.type == "cpu":  # a batched product of such thin matrices is slow on a CPU
                for b in range(len(weights)):
                    hidden = self.stage.after(torch.addmm(before[:, part], weights[b], patches[b, :, part]))
                    logits[b, :, part] = predict @ hidden
            else:
                hidden = self.stage.after(torch.baddbmm(before[:, part], weights, patches[:, :, part]))
                logits[:, :, part] = predict @ hidden
        if bias is not None:
            logits += bias[:, None]
        return logits.transpose(1, 2).flatten(1)

    def _deltas_anew(self, weights: Tensor, patches: Tensor, best: Tensor) -> Tensor:
        """(B, n, 4) the box deltas of the best anchors only, from hidden features computed again."""
        place = best // self.stage.objectness.out_channels
        at = place[:, None, :]
        around = patches.gather(2, at.expand(-1, patches.shape[1], -1))
        before = self.linear[0].flatten(1)[:, place].transpose(0, 1)
        hidden = self.stage.after(before + weights @ around)
        deltas = self.stage.deltas.weight.flatten(1) @ hidden
        return self._own_anchor(deltas, best)

    def _deltas_at(self, hidden: Tensor, best: Tensor) -> Tensor:
        place = best // self.stage.objectness.out_channels
        flat = hidden.flatten(2)
        deltas = self.stage.deltas.weight.flatten(1) @ flat.gather(2, place[:, None].expand(-1, flat.shape[1], -1))
        return self._own_anchor(deltas, best)

    def _own_anchor(self, deltas: Tensor, best: Tensor) -> Tensor:
        """From the deltas (B, 4 A, n) of all anchors of a place, those of the anchor that is meant: (B, n, 4)."""
        n_anchors = self.stage.objectness.out_channels
        if self.stage.deltas.bias is not None:
            deltas = deltas + self.stage.deltas.bias[:, None]
        per_anchor = deltas.unflatten(1, (n_anchors, 4))
        mine = (best % n_anchors)[:, None, None].expand(-1, 1, 4, -1)
        return per_anchor.gather(1, mine)[:, 0].transpose(1, 2)

    def _survivors(self, logits: Tensor, deltas_of: Callable[[Tensor], Tensor]) -> Survivors:
        best_logits, best = logits.topk(min(self.stage.n_before_nms, logits.shape[1]), dim=1)
        return self._surviving(best_logits, best, deltas_of(best))

    def _surviving(self, logits: Tensor, best: Tensor, deltas: Tensor) -> Survivors:
        """Of the anchors ``best`` (B, n), with their logits (B, n) and deltas (B, n, 4)."""
        stage = self.stage
        boxes = stage.decode(deltas.flatten(0, 1), self.anchors[best].flatten(0, 1))
        boxes = box_ops.clip_boxes_to_image(boxes, self.image_size).unflatten(0, best.shape)
        scores = logits.sigmoid()
        sides = boxes[..., 2:] - boxes[..., :2]
        valid = (sides >= stage.min_size).all(-1) & (scores >= stage.score_threshold)
        keep = suppress(boxes, scores, valid, stage.nms_threshold)
        return Survivors(boxes, scores.masked_fill(~keep, -torch.inf), best)


def _by_anchor(predictions: Tensor) -> Tensor:
    """(B, A, h, w) logits as (B, h * w * A), in the order of the anchors."""
    return predictions.permute(0, 2, 3, 1).flatten(1)


def suppress(boxes: Tensor, scores: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression of each row by itself: (B, n) True for the boxes that stay.

    Args:
        boxes: (B, n, 4) xyxy.
        scores: (B, n).
        valid: (B, n) boxes that take part.
        threshold: IoU above which the lower score goes.
    """
    keep = torch.zeros_like(valid)
    wide = torch.promote_types(boxes.dtype, torch.float32)  # under autocast they come in several
    boxes, scores = boxes.to(wide), scores.to(wide)
    if boxes.device.type == "cpu":

        def suppress_row(row: int) -> None:
            taking_part = valid[row].nonzero().flatten()
            stay = box_ops.nms(boxes[row, taking_part], scores[row, taking_part], threshold)
            keep[row, taking_part[stay]] = True

        # one row's suppression is serial, and a sixth of all the time: rows side by side
        with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(boxes)))) as threads:
            list(threads.map(suppress_row, range(len(boxes))))
        return keep
    rows, columns = valid.nonzero(as_tuple=True)
    # one call for all rows moves them apart by an offset, which float32 would pay for with the boxes' last digits
    stay = box_ops.batched_nms(boxes[rows, columns].double(), scores[rows, columns].double(), rows, threshold)
    keep[rows[stay], columns[stay]] = True
    return keep
