"""A branch of convolutions under ablation: what one channel of its level changes, in one window of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.adapters.structure import Convolution
from detxai.engine.ablation.dense.windows import Pads, Window, cost, patches
from detxai.engine.batching import takes_in_turn

GATHERING_COSTS = 3.0  # times as much for single cells, picked out, as for as many in a window
CELLS_AT_ONCE = 256  # of a level, for each of several ablations in the same windows


@dataclass(frozen=True)
class _Way:
    """How to fill one window: what each convolution reads.

    Attributes:
        change: where the change of the ablated channel is looked at, and the zeros around it.
        linear: (O, n) the clean output of the first mixing convolution where the rest reads it.
        size: (height, width) of that.
        pads: the zeros around what each later convolution reads.
    """

    change: tuple[Window, Pads]
    linear: Tensor
    size: tuple[int, int]
    pads: tuple[Pads, ...]


class AblatedBranch:
    """One branch of a head, for one level: its clean output, and windows of its output without a channel.

    The first convolution that mixes channels is linear, so that only the change of one channel goes through it; before
    it there may be one that convolves each channel by itself, of which only one channel changes.

    Args:
        convolutions: as in ``Dense``.
        level: (1, C, h, w).
        outputs: the outputs that somebody reads; None: all.
    """

    def __init__(self, convolutions: Sequence[Convolution], level: Tensor, outputs: Tensor | None = None) -> None:
        *before_last, last = convolutions
        if outputs is not None:
            last = replace(last, weight=last.weight[outputs], bias=last.bias[outputs])
        first, *later = (*before_last, last)
        self.alone = None if first.groups == 1 else first
        self.mixing, *self.after = [first, *later] if self.alone is None else later
        self.place_by_place = all(part.place_by_place for part in (self.mixing, *self.after))
        self.size = (level.shape[-2], level.shape[-1])
        before = level if self.alone is None else _activated(self.alone, _convolved(self.alone, level))
        self.before = before[0]
        self.of_channel = self.mixing.weight.transpose(0, 1).flatten(2).contiguous()  # (C, O, k * k)
        if self.alone is not None:  # where its taps lie inside the level
            side = self.alone.weight.shape[-1]
            self.inside = F.unfold(torch.ones_like(level[:, :1]), side, padding=side // 2)[0]
        self.linear = _convolved(self.mixing, before)
        self.clean = self._rest(self.linear.clone(), [_all_around(part) for part in self.after]).flatten(2)
        self._ways: dict[Window, _Way] = {}

    def change(self, channels: Tensor, fill: Tensor) -> Tensor:
        """(B, h, w): how much the channel that the mixing convolution reads changes with the ablation."""
        if self.alone is None:
            return fill[:, None, None] - self.before[channels]
        taps = self.alone.weight[channels].flatten(1) * fill[:, None]
        constant = torch.addmm(self.alone.bias[channels, None], taps, self.inside)
        return _activated(self.alone, constant).unflatten(1, self.size) - self.before[channels]

    def without(self, channels: Tensor, change: Tensor, window: Window) -> Tensor:
        """(B, O', n) the output of the cells of ``window`` with one channel changed, for each of B channels."""
        if window not in self._ways:
            self._ways[window] = self._way(window)
        return self._filled(channels, change, self._ways[window])

    def _filled(self, channels: Tensor, change: Tensor, way: _Way) -> Tensor:
        part, pads = way.change
        taps = F.unfold(F.pad(part.of(change), pads)[:, None], self.mixing.weight.shape[-1])
        taps = taps.to(way.linear.dtype)  # autocast leaves products with an ``out`` alone
        weights = self.of_channel[channels].to(way.linear.dtype)
        if takes_in_turn(change.device):  # a batched product of such thin matrices is slow on a CPU
            hidden = way.linear.new_empty(len(channels), *way.linear.shape)
            for b in range(len(channels)):
                torch.addmm(way.linear, weights[b], taps[b], out=hidden[b])
        else:
            hidden = torch.baddbmm(way.linear, weights, taps)
        return self._rest(hidden.unflatten(2, way.size), way.pads).flatten(2)

    @property
    def cost(self) -> int:
        """Multiplications for one cell of its output, without the mixing convolution."""
        return sum(part.weight.numel() for part in self.after)

    @property
    def width(self) -> int:
        """The most channels between its convolutions."""
        return max(len(part.weight) for part in (self.mixing, *self.after))

    @property
    def gathers(self) -> bool:
        """Whether cells can be picked out singly: only the convolution after the mixing one sees their neighbours."""
        return (
            bool(self.after)
            and self.place_by_place
            and all(part.groups == 1 for part in self.after)
            and all(part.weight.shape[-1] == 1 for part in self.after[1:])
        )

    def price_at(self, cells: Tensor) -> float:
        """Multiplications that ``at`` takes for one ablation of which these cells (n,) are wanted."""
        if self.gathers:
            return GATHERING_COSTS * len(cells) * self.cost
        return self.cost * float(sum(cost(window) for window in self._windows_around(cells)))

    def at(self, channels: Tensor, change: Tensor, row: Tensor, cells: Tensor) -> Tensor:
        """(n, O') the output of single cells (n,), each of the ablation ``row`` (n,) of B, as ``without`` gives it."""
        if self.gathers:
            return self._gathered(channels, change, row, cells)
        answer = change.new_zeros(len(cells), self.clean.shape[1], dtype=self.clean.dtype)
        rows, row = row.unique(return_inverse=True)
        at_once = max(1, CELLS_AT_ONCE // (self.size[0] * self.size[1]))  # few share windows that fit each
        for start in range(0, len(rows), at_once):
            part, chosen = rows[start : start + at_once], ((row >= start) & (row < start + at_once)).nonzero()[:, 0]
            for window in self._windows_around(cells[chosen]):
                down, across = cells[chosen] // self.size[1] - window.top, cells[chosen] % self.size[1] - window.left
                height, width = window.size
                here = (down >= 0) & (down < height) & (across >= 0) & (across < width)
                # not ``without``, which keeps what it prepares for a window: these differ from ablation to ablation
                output = self._filled(channels[part], change[part], self._way(window))
                place = (down * width + across)[here]
                answer[chosen[here]] = output[row[chosen[here]] - start, :, place]
        return answer

    def _windows_around(self, cells: Tensor) -> tuple[Window, ...]:
        """Windows that hold these cells (n,); the whole level where only that can be computed."""
        if not len(cells):
            return ()
        height, width = self.size
        if not self.place_by_place:
            return (Window(0, height, 0, width),)
        wanted = torch.zeros(height * width, dtype=torch.bool)
        wanted[cells.cpu()] = True
        reach = sum(part.weight.shape[-1] // 2 for part in self.after)
        return patches(wanted.unflatten(0, self.size), reach)

    def _gathered(self, channels: Tensor, change: Tensor, row: Tensor, cells: Tensor) -> Tensor:
        reach, further = self.after[0].weight.shape[-1] // 2, self.mixing.weight.shape[-1] // 2
        down, across = cells // self.size[1], cells % self.size[1]
        # the change as the mixing convolution sees it from each cell that the one after it reads
        side = 2 * (reach + further) + 1
        rows, columns = _block(down, across, side)
        seen = F.pad(change, (reach + further,) * 4)[row[:, None], rows, columns].unflatten(1, (side, side))
        taps = 2 * further + 1
        near_change = seen.unfold(1, taps, 1).unfold(2, taps, 1).flatten(3).flatten(1, 2)
        near_down, near_across = _block(down - reach, across - reach, 2 * reach + 1)
        height, width = self.size
        inside = (near_down >= 0) & (near_down < height) & (near_across >= 0) & (near_across < width)
        near = near_down.clamp(0, height - 1) * width + near_across.clamp(0, width - 1)
        weights = self.of_channel[channels].transpose(1, 2)[row]
        hidden = _activated(self.mixing, torch.baddbmm(self._rows[near], near_change, weights)) * inside[..., None]
        first, *rest = self.after
        output = F.linear(hidden.flatten(1), first.weight.permute(0, 2, 3, 1).flatten(1), first.bias)
        output = _activated(first, output)
        for part in rest:
            output = _activated(part, F.linear(output, part.weight.flatten(1), part.bias))
        return output

    @cached_property
    def _rows(self) -> Tensor:
        """(h * w, O) the clean output of the mixing convolution, place by place."""
        return self.linear[0].flatten(1).t().contiguous()

    def _rest(self, linear: Tensor, pads: Sequence[Pads]) -> Tensor:
        hidden = _activated(self.mixing, linear)
        for convolution, around in zip(self.after, pads):
            hidden = _activated(convolution, _convolved(convolution, hidden, around))
        return hidden

    def _way(self, window: Window) -> _Way:
        pads: list[Pads] = []
        read = window
        for convolution in reversed(self.after):
            read, around = read.seen_by(convolution.weight.shape[-1], self.size)
            pads.insert(0, around)
        return _Way(
            read.seen_by(self.mixing.weight.shape[-1], self.size),
            read.of(self.linear[0]).flatten(1).contiguous(),
            read.size,
            tuple(pads),
        )


def _block(down: Tensor, across: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns (n, side * side) of the square of cells that begins at each of n places."""
    step = torch.arange(side, device=down.device)
    rows = (down[:, None] + step).repeat_interleave(side, 1)
    return rows, (across[:, None] + step).repeat(1, side)


def _all_around(convolution: Convolution) -> Pads:
    reach = convolution.weight.shape[-1] // 2
    return (reach, reach, reach, reach)


def _convolved(convolution: Convolution, maps: Tensor, pads: Pads | None = None) -> Tensor:
    """Maps (B, C, h, w) through a convolution, with these zeros around them; default: those of a whole level."""
    left, right, top, bottom = _all_around(convolution) if pads is None else pads
    if left != right or top != bottom:
        maps, left, top = F.pad(maps, (left, right, top, bottom)), 0, 0
    return F.conv2d(maps, convolution.weight, convolution.bias, padding=(top, left), groups=convolution.groups)


def _activated(convolution: Convolution, maps: Tensor) -> Tensor:
    return maps if convolution.activation is None else convolution.activation(maps)
