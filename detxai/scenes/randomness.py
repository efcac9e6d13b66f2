"""Random numbers and noise fields that are the same bytes on every Python, numpy and CPU.

Only ``Generator.random`` is drawn from (its bit stream is fixed), and only ``+ - * /``, ``sqrt`` and ``floor`` are
applied to pixels: IEEE 754 defines their every bit, which it does not for ``sin``, ``exp`` or a vectorised sum.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
T = TypeVar("T")


class Dice:
    """A seeded source of numbers; ``stream`` separates uses of the same seed."""

    def __init__(self, seed: int, stream: int = 0) -> None:
        self._generator = np.random.Generator(np.random.PCG64([seed, stream]))

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return low + int(self._generator.random() * (high - low))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return float(self._generator.random()) < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.integer(0, len(options))]

    def direction(self) -> tuple[float, float]:
        """A unit vector, from a point of the square ring: no trigonometry, so no rounding of a libm."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            length = (x * x + y * y) ** 0.5
            if 0.1 < length <= 1:
                return x / length, y / length

    def array(self, *shape: int) -> Floats:
        """Floats in [0, 1) of this shape."""
        return self._generator.random(shape, dtype=np.float32)


def smooth_noise(dice: Dice, height: int, width: int, cell_height: float, cell_width: float) -> Floats:
    """(height, width) noise in [0, 1): random values at a lattice of cells, smoothly interpolated."""
    rows, row_weight = _lattice(height, cell_height, dice.uniform(0, 1))
    columns, column_weight = _lattice(width, cell_width, dice.uniform(0, 1))
    values = dice.array(int(rows[-1]) + 2, int(columns[-1]) + 2)
    lines = values[rows] + (values[rows + 1] - values[rows]) * row_weight[:, None]
    return np.asarray(lines[:, columns] + (lines[:, columns + 1] - lines[:, columns]) * column_weight)


def fractal_noise(
    dice: Dice, height: int, width: int, cell: float, octaves: int, roughness: float, stretch: float = 1.0
) -> Floats:
    """(height, width) noise in [0, 1): ``smooth_noise``, each octave of half the cell and ``roughness`` the weight."""
    total = np.zeros((height, width), np.float32)
    weight, weights = 1.0, 0.0
    for _ in range(octaves):
        total += np.float32(weight) * smooth_noise(dice, height, width, max(cell, 1.5), max(cell * stretch, 1.5))
        weights += weight
        weight, cell = weight * roughness, cell / 2
    return total / np.float32(weights)


def triangle_wave(phase: Floats) -> Floats:
    """A wave in [0, 1] of period 1, standing in for a sine."""
    return np.abs((phase - np.floor(phase)) * np.float32(2) - np.float32(1))


def _lattice(length: int, cell: float, offset: float) -> tuple[npt.NDArray[np.int64], Floats]:
    position = (np.arange(length, dtype=np.float64) + 0.5) / cell + offset
    index = np.floor(position)
    fraction = (position - index).astype(np.float32)
    return index.astype(np.int64), fraction * fraction * (np.float32(3) - np.float32(2) * fraction)
