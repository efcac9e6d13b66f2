"""The few pixels where a map of smooth masks must be known to be known everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detxai.engine.masking.soft.masks import RiseMasks

POINTS = 8  # of the lattice for each cell and axis
CHUNK = 64  # masks at a time, whatever the detector's batch was: sums must not depend on it


@dataclass(frozen=True)
class Lattice:
    """The pixels where maps are estimated: several for each cell of the masks, which are linear in between.

    Args:
        masks: whose cells set the distance between the points.
        points: for each cell and axis.
    """

    masks: RiseMasks
    points: int = POINTS

    @cached_property
    def rows(self) -> Tensor:
        return _spread(self.masks.size[0], max(1, self.masks.cell[0] // self.points))

    @cached_property
    def columns(self) -> Tensor:
        return _spread(self.masks.size[1], max(1, self.masks.cell[1] // self.points))

    def chunks(self, numbers: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The masks of these numbers at the points, less p, (n, h * w), a chunk at a time and which chunk it is."""
        for start in range(0, len(numbers), CHUNK):
            part = slice(start, min(start + CHUNK, len(numbers)))
            yield part, self.masks(numbers[part], self.rows, self.columns).flatten(1) - self.masks.p

    def covariance(self, other: Lattice) -> tuple[Tensor, Tensor]:
        """The known covariance of masks between these points and others', an axis each, less the factor p (1 - p)."""
        return self.masks.kernel(0, self.rows, other.rows), self.masks.kernel(1, self.columns, other.columns)

    @property
    def variance(self) -> Tensor:
        """(h, w) float64: the known variance of masks at the points."""
        vertical, horizontal = self.covariance(self)
        return self.masks.p * (1 - self.masks.p) * vertical.diagonal()[:, None] * horizontal.diagonal()[None]

    def to_pixels(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        """Values (..., h, w) at the points, as a map (..., *size) over the masks' extent at another resolution."""
        axes = []
        for points, n_pixels, n_out in zip((self.rows, self.columns), self.masks.size, size, strict=True):
            places = (torch.arange(n_out, dtype=torch.float64) + 0.5) * n_pixels / n_out - 0.5
            axes.append(_between(points, places).to(values.device, values.dtype))
        return axes[0] @ values @ axes[1].T


def _spread(n_pixels: int, step: int) -> Tensor:
    """Whole numbers from the first pixel to the last, at most ``step`` apart."""
    return torch.linspace(0, n_pixels - 1, math.ceil((n_pixels - 1) / step) + 1, dtype=torch.float64).round().long()


def _between(points: Tensor, places: Tensor) -> Tensor:
    """(places, points) the matrix that interpolates linearly from points (ascending) to places, constant beyond."""
    if len(points) == 1:
        return torch.ones(len(places), 1, dtype=torch.float64)
    places = places.clamp(int(points[0]), int(points[-1]))
    high = torch.searchsorted(points.double(), places).clamp(1, len(points) - 1)
    share = (places - points[high - 1]) / (points[high] - points[high - 1])
    rows, matrix = torch.arange(len(places)), torch.zeros(len(places), len(points), dtype=torch.float64)
    matrix[rows, high - 1], matrix[rows, high] = 1 - share, share
    return matrix
