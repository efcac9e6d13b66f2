"""How much of a map lies in a box: energy and pointing measures, fast enough for every box of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Evidence:
    """A map (H, W) and what every box is measured against in it.

    Attributes:
        values: the map.
        peak: its largest value, 0 where that is below.
        total: the sum of its positive values.
        n_peaks: how many pixels have the largest value; 0 where none is positive, or where all are the same.
    """

    values: npt.NDArray[np.float32]
    peak: float
    total: float
    n_peaks: int

    @classmethod
    def from_values(cls, values: npt.NDArray[np.float32]) -> Evidence:
        peak = max(float(values.max()), 0.0)
        if peak == 0:
            return cls(values, 0.0, 0.0, 0)
        total = float(np.maximum(values, 0).sum(dtype=np.float64))
        n_peaks = int(np.count_nonzero(values == peak))
        return cls(values, peak, total, n_peaks if n_peaks < values.size else 0)

    def measures(self, box: Sequence[float]) -> dict[str, float]:
        """How much of the map lies in a box, xyxy: the shares of ``EnergyPointingGame`` and ``PointingGame``.

        The same numbers as ``detxai.metrics`` gives, read from the window of pixels whose centres lie in the box
        instead of through a mask: a long run computes it for every box.

        >>> Evidence.from_values(np.array([[1.0, 2.0, -5.0, 1.0]], dtype=np.float32)).measures((1.0, 0.0, 2.6, 1.0))
        {'energy_box': 0.5, 'energy_box_chance': 0.5, 'pointing_box': 1.0}
        """
        left, right = (_first_centre(side, self.values.shape[1]) for side in box[::2])
        top, bottom = (_first_centre(side, self.values.shape[0]) for side in box[1::2])
        window = self.values[top:bottom, left:right]
        energy = pointing = 0.0
        if self.peak > 0:
            energy = float(np.maximum(window, 0).sum(dtype=np.float64)) / self.total
        if self.n_peaks:
            pointing = int(np.count_nonzero(window == self.peak)) / self.n_peaks
        return {"energy_box": energy, "energy_box_chance": window.size / self.values.size, "pointing_box": pointing}


def _first_centre(side: float, size: int) -> int:
    """The first pixel whose centre lies at ``side`` or beyond."""
    return min(max(math.ceil(side - 0.5), 0), size)
