"""A branch of convolutions under ablation: what one channel of its level changes, in one window of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.adapters.structure import Convolution
from detxai.engine.ablation.dense.windows import Pads, Window, cost, grouped_windows
from detxai.engine.batching import prefers_loop

GATHER_COST = 3.0  # times as much for single cells, picked out, as for as many in a window
CELLS_AT_ONCE = 256  # of a level, for each of several ablations in the same windows


@dataclass(frozen=True)
class _WindowReads:
    """What each convolution reads to compute one window of the output.

    Attributes:
        change: the window of the channel's change that is read, and the zeros around it.
        linear: (O, n) the clean output of the first mixing convolution in the window that the later convolutions read.
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
        outputs: which outputs of the last convolution are read; None: all.
    """

    def __init__(self, convolutions: Sequence[Convolution], level: Tensor, outputs: Tensor | None = None) -> None:
        *before_last, last = convolutions
        if outputs is not None:
            last = replace(last, weight=last.weight[outputs], bias=last.bias[outputs])
        first, *later = (*before_last, last)
        self.depthwise = None if first.groups == 1 else first
        self.mixing, *self.after = [first, *later] if self.depthwise is None else later
        self.cells_are_independent = all(part.place_by_place for part in (self.mixing, *self.after))
        self.size = (level.shape[-2], level.shape[-1])
        before = level if self.depthwise is None else _activated(self.depthwise, _convolved(self.depthwise, level))
        self.mixing_input = before[0]
        self.channel_weights = self.mixing.weight.transpose(0, 1).flatten(2).contiguous()  # (C, O, k * k)
        if self.depthwise is not None:  # where its taps lie inside the level
            side = self.depthwise.weight.shape[-1]
            self.inside = F.unfold(torch.ones_like(level[:, :1]), side, padding=side // 2)[0]
        self.linear = _convolved(self.mixing, before)
        self.clean = self._after_mixing(self.linear.clone(), [_all_around(part) for part in self.after]).flatten(2)
        self._reads: dict[Window, _WindowReads] = {}

    def channel_change(self, channels: Tensor, fill: Tensor) -> Tensor:
        """(B, h, w): how much the channel that the mixing convolution reads changes with the ablation."""
        if self.depthwise is None:
            return fill[:, None, None] - self.mixing_input[channels]
        taps = self.depthwise.weight[channels].flatten(1) * fill[:, None]
        constant = torch.addmm(self.depthwise.bias[channels, None], taps, self.inside)
        return _activated(self.depthwise, constant).unflatten(1, self.size) - self.mixing_input[channels]

    def output_in_window(self, channels: Tensor, change: Tensor, window: Window) -> Tensor:
        """(B, O', n) the output in the cells of ``window`` with one channel changed, for each of B channels."""
        if window not in self._reads:
            self._reads[window] = self._reads_for(window)
        return self._output(channels, change, self._reads[window])

    def _output(self, channels: Tensor, change: Tensor, reads: _WindowReads) -> Tensor:
        part, pads = reads.change
        taps = F.unfold(F.pad(part.crop(change), pads)[:, None], self.mixing.weight.shape[-1])
        taps = taps.to(reads.linear.dtype)  # autocast leaves products with an ``out`` alone
        weights = self.channel_weights[channels].to(reads.linear.dtype)
        if prefers_loop(change.device):  # a batched product of such thin matrices is slow on a CPU
            hidden = reads.linear.new_empty(len(channels), *reads.linear.shape)
            for b in range(len(channels)):
                torch.addmm(reads.linear, weights[b], taps[b], out=hidden[b])
        else:
            hidden = torch.baddbmm(reads.linear, weights, taps)
        return self._after_mixing(hidden.unflatten(2, reads.size), reads.pads).flatten(2)

    @property
    def cost(self) -> int:
        """Multiplications for one cell of its output, without the mixing convolution."""
        return sum(part.weight.numel() for part in self.after)

    @property
    def width(self) -> int:
        """The most channels between its convolutions."""
        return max(len(part.weight) for part in (self.mixing, *self.after))

    @property
    def can_gather(self) -> bool:
        """Whether cells can be picked out singly: only the convolution after the mixing one sees their neighbours."""
        return (
            bool(self.after)
            and self.cells_are_independent
            and all(part.groups == 1 for part in self.after)
            and all(part.weight.shape[-1] == 1 for part in self.after[1:])
        )

    def cost_at_cells(self, cells: Tensor) -> float:
        """Multiplications that ``output_at_cells`` takes for one ablation of which these cells (n,) are wanted."""
        if self.can_gather:
            return GATHER_COST * len(cells) * self.cost
        return self.cost * float(sum(cost(window) for window in self._windows_around(cells)))

    def output_at_cells(self, channels: Tensor, change: Tensor, row: Tensor, cells: Tensor) -> Tensor:
        """(n, O') the output of single cells (n,) of ablations ``row`` (n,), as ``output_in_window`` gives it."""
        if self.can_gather:
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
                # not ``output_in_window``, which caches what it prepares for a window: these differ between ablations
                output = self._output(channels[part], change[part], self._reads_for(window))
                place = (down * width + across)[here]
                answer[chosen[here]] = output[row[chosen[here]] - start, :, place]
        return answer

    def _windows_around(self, cells: Tensor) -> tuple[Window, ...]:
        """Windows that hold these cells (n,); the whole level where only that can be computed."""
        if not len(cells):
            return ()
        height, width = self.size
        if not self.cells_are_independent:
            return (Window(0, height, 0, width),)
        wanted = torch.zeros(height * width, dtype=torch.bool)
        wanted[cells.cpu()] = True
        reach = sum(part.weight.shape[-1] // 2 for part in self.after)
        return grouped_windows(wanted.unflatten(0, self.size), reach)

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
        weights = self.channel_weights[channels].transpose(1, 2)[row]
        linear = torch.baddbmm(self._linear_by_cell[near], near_change, weights)
        hidden = _activated(self.mixing, linear) * inside[..., None]
        first, *rest = self.after
        output = F.linear(hidden.flatten(1), first.weight.permute(0, 2, 3, 1).flatten(1), first.bias)
        output = _activated(first, output)
        for part in rest:
            output = _activated(part, F.linear(output, part.weight.flatten(1), part.bias))
        return output

    @cached_property
    def _linear_by_cell(self) -> Tensor:
        """(h * w, O) the clean output of the mixing convolution, place by place."""
        return self.linear[0].flatten(1).t().contiguous()

    def _after_mixing(self, linear: Tensor, pads: Sequence[Pads]) -> Tensor:
        hidden = _activated(self.mixing, linear)
        for convolution, around in zip(self.after, pads):
            hidden = _activated(convolution, _convolved(convolution, hidden, around))
        return hidden

    def _reads_for(self, window: Window) -> _WindowReads:
        pads: list[Pads] = []
        read = window
        for convolution in reversed(self.after):
            read, around = read.input_window(convolution.weight.shape[-1], self.size)
            pads.insert(0, around)
        return _WindowReads(
            read.input_window(self.mixing.weight.shape[-1], self.size),
            read.crop(self.linear[0]).flatten(1).contiguous(),
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
