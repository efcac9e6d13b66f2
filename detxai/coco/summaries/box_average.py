"""Where a detector looks, as seen from its boxes: many maps laid over one another, every box stretched to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

SIDE = 48  # cells of the average along each axis
MARGIN = 0.5  # of the box's side, shown around it: the box is the middle half


class BoxAverage:
    """The mean heatmap around a box.

    Every map is scaled to a largest value of 1 over its whole image, then read at the points of a grid over the box
    and a margin around it. Points outside the image do not count.

    >>> average = BoxAverage()
    >>> values = np.zeros((40, 40), dtype=np.float32)
    >>> values[:, 20:] = 3.0
    >>> average.add(values, (10.0, 10.0, 30.0, 30.0))
    >>> average.mean()[24, [0, 11, 36, 47]].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self) -> None:
        self.n = 0
        self._sum = np.zeros((SIDE, SIDE))
        self._count = np.zeros((SIDE, SIDE))

    def add(self, values: npt.NDArray[np.float32], box: Sequence[float]) -> None:
        """Count one map (H, W) and its box, xyxy in pixels; an empty box counts for nothing."""
        x1, y1, x2, y2 = box
        if x2 <= x1 or y2 <= y1:
            return
        height, width = values.shape
        at = (np.arange(SIDE) + 0.5) / SIDE * (1 + 2 * MARGIN) - MARGIN
        x, y = x1 + at * (x2 - x1), y1 + at * (y2 - y1)
        inside = ((y >= 0) & (y <= height))[:, None] & ((x >= 0) & (x <= width))[None]
        positive = torch.from_numpy(values).clamp(min=0)
        peak = float(positive.max())
        grid = torch.from_numpy(np.stack(np.meshgrid(2 * x / width - 1, 2 * y / height - 1), -1)[None]).float()
        read = torch.nn.functional.grid_sample(
            positive[None, None] / (peak if peak > 0 else 1), grid, padding_mode="border", align_corners=False
        )[0, 0].numpy()
        self._sum += read * inside
        self._count += inside
        self.n += 1

    def mean(self) -> npt.NDArray[np.float64]:
        """(48, 48), rows from top to bottom, in [0, 1]; 0 where no image reached."""
        return np.asarray(self._sum / np.maximum(self._count, 1))
