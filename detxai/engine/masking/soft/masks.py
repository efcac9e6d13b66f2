"""RISE's random masks: mask number i is a function of (seed, i) alone, on any device, in any batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Word = TypeVar("Word", int, Tensor)


@dataclass(frozen=True)
class RiseMasks:
    """Endless smooth random masks of one size.

    A grid of cells, each kept with probability p, enlarged bilinearly to one cell more than the image in each
    direction and cropped at a random offset of less than a cell.

    Args:
        size: (height, width) in pixels.
        grid: (rows, columns) of cells.
        seed: of all masks.
        p: probability that a cell is kept.

    Source: Petsiuk et al., 2018, RISE (BMVC), section 3.2.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    seed: int = 0
    p: float = 0.5

    @property
    def cell(self) -> tuple[int, int]:
        """(height, width) of a cell in pixels, before it is enlarged by (n + 1) / n to fill one cell more."""
        return math.ceil(self.size[0] / self.grid[0]), math.ceil(self.size[1] / self.grid[1])

    def __call__(self, numbers: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """Masks by number, whole or at some pixels only.

        Args:
            numbers: (B,) int64, which masks; on the device where they shall be made.
            rows: (h,) int64 pixel rows; default: all.
            columns: (w,) int64 pixel columns; default: all.

        Returns:
            (B, h, w) float32 in [0, 1].
        """
        kept, offsets = self.cells(numbers)
        sides = []
        for axis, chosen in enumerate((rows, columns)):
            pixels = torch.arange(self.size[axis]) if chosen is None else chosen
            enlarge = self._enlarging[axis].to(numbers.device)
            sides.append(enlarge[offsets[axis][:, None] + pixels.to(numbers.device)])
        return sides[0] @ kept.float() @ sides[1].transpose(1, 2)

    def cells(self, numbers: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Which cells masks keep, (B, rows, columns) bool, and the (down, right) offsets of the crops, (B,) each."""
        n_cells = self.grid[0] * self.grid[1]
        uniform = uniforms(self.seed, numbers, torch.arange(n_cells + 2, device=numbers.device))
        down, right = ((uniform[:, n_cells + axis] * self.cell[axis]).long() for axis in (0, 1))
        return uniform[:, :n_cells].unflatten(1, self.grid) < self.p, (down, right)

    @cached_property
    def _enlarging(self) -> tuple[Tensor, Tensor]:
        """For each axis, ((n + 1) * cell, n) float32: enlarged pixel <- cells."""
        vertical, horizontal = (
            F.interpolate(
                torch.eye(n, dtype=torch.float32)[None], size=(n + 1) * cell, mode="linear", align_corners=False
            )[0].T
            for n, cell in zip(self.grid, self.cell, strict=True)
        )
        return vertical, horizontal

    @property
    def kernels(self) -> tuple[Tensor, Tensor]:
        """The exact covariance of masks, as one matrix for each axis, (height, height) and (width, width) float64.

        ``Cov(M(y, x), M(y', x')) = p (1 - p) * kernels[0][y, y'] * kernels[1][x, x']``: cells are independent, and
        so are the two offsets.
        """
        rows, columns = (torch.arange(n) for n in self.size)
        return self.kernel(0, rows, rows), self.kernel(1, columns, columns)

    def kernel(self, axis: int, first: Tensor, second: Tensor) -> Tensor:
        """One axis of ``kernels`` at some pixels only: (n, m) float64 between ``first`` (n,) and ``second`` (m,)."""
        offsets, enlarge = torch.arange(self.cell[axis])[:, None], self._enlarging[axis].double()
        here, there = (enlarge[offsets + pixels].transpose(0, 1).flatten(1) for pixels in (first, second))
        return here @ there.T / len(offsets)


def uniforms(seed: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Random numbers in (0, 1) that depend on (seed, row, column) alone: the same on every device.

    Args:
        seed: any whole number; its lowest 64 bits count.
        rows: (n,) int64 in [0, 2^32).
        columns: (m,) int64 in [0, 2^32), on the same device.

    Returns:
        (n, m) float64 (float32 on MPS, which has no float64).

    >>> uniforms(0, torch.tensor([7]), torch.arange(3)).equal(uniforms(0, torch.arange(9), torch.arange(3))[7:8])
    True
    """
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    row_key, column_key = (_mixed(_mixed(word) ^ high) for word in (low, low ^ 0x9E3779B9))
    word = _mixed(_mixed(rows ^ row_key)[:, None] ^ _mixed(columns ^ column_key)[None])
    kind = torch.float32 if rows.device.type == "mps" else torch.float64
    return (word.to(kind) + 0.5) / 2**32


def _mixed(word: Word) -> Word:
    """A bijection of 32-bit words that leaves no pattern; products stay below 2^63, so int64 holds them exactly.

    Source: C. Wellons, hash-prospector: the two-round xor-shift-multiply of least known bias among those with both
    multipliers below 2^31.
    """
    word = word ^ (word >> 16)
    word = word * 0x21F0AAAD & 0xFFFFFFFF
    word = word ^ (word >> 15)
    word = word * 0x735A2D97 & 0xFFFFFFFF
    return word ^ (word >> 15)
