"""Rectangles of a level's cells, and which of them can hold the anchor of a box like a target's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation, label
from torch import Tensor

Pads = tuple[int, int, int, int]  # left, right, top, bottom
WINDOW_OVERHEAD = 60  # cells: what starting the convolutions of one more window costs on a CPU


@dataclass(frozen=True)
class Window:
    """A rectangle of cells: rows from ``top`` to before ``bottom``, columns from ``left`` to before ``right``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def n_cells(self) -> int:
        return self.size[0] * self.size[1]

    def crop(self, maps: Tensor) -> Tensor:
        """The part of maps (..., h, w) inside the window."""
        return maps[..., self.top : self.bottom, self.left : self.right]

    def cells(self, width: int, device: torch.device) -> Tensor:
        """The numbers (n,) of its cells, counted row by row in a level so wide."""
        rows = torch.arange(self.top, self.bottom, device=device)[:, None]
        return (rows * width + torch.arange(self.left, self.right, device=device)).flatten()

    def input_window(self, side: int, size: tuple[int, int]) -> tuple[Window, Pads]:
        """What a convolution of ``side`` reads to fill this window of a level (h, w), and the zeros around it.

        >>> Window(0, 2, 3, 5).input_window(3, (8, 8))
        (Window(top=0, bottom=3, left=2, right=6), (0, 0, 1, 0))
        """
        reach = side // 2
        top, bottom, left, right = (
            self.top - reach, self.bottom + reach, self.left - reach, self.right + reach
        )  # fmt: skip
        pads = (max(-left, 0), max(right - size[1], 0), max(-top, 0), max(bottom - size[0], 0))
        return Window(max(top, 0), min(bottom, size[0]), max(left, 0), min(right, size[1])), pads

    def union(self, other: Window) -> Window:
        """The smallest window that holds both."""
        return Window(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )


def highest_iou(box: Tensor, point: Tensor, widest: Tensor) -> Tensor:
    """The highest IoU with ``box`` of any box that holds ``point`` and stays within ``widest``.

    That is of the smallest box that holds the point and all that ``widest`` leaves of ``box``: along each axis such a
    box overlaps by ``o`` and must bridge a gap ``g`` to the point, and ``o o' / (area + (o + g)(o' + g') - o o')``
    grows with both overlaps.

    Args:
        box: (..., 4) xyxy.
        point: (..., 4), the point twice: x, y, x, y.
        widest: (..., 4) xyxy.

    >>> box, widest = torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([-5.0, -5.0, 35.0, 35.0])
    >>> highest_iou(box, torch.tensor([15.0, 5.0, 15.0, 5.0]), widest)  # that of (0, 0, 15, 10): 100 / 150
    tensor(0.6667)
    """
    overlap = (torch.minimum(box[..., 2:], widest[..., 2:]) - torch.maximum(box[..., :2], widest[..., :2])).clamp(min=0)
    gap = torch.maximum(box[..., :2] - point[..., :2], point[..., 2:] - box[..., 2:]).clamp(min=0)
    shared = overlap.prod(-1)
    union = (box[..., 2:] - box[..., :2]).prod(-1) + (overlap + gap).prod(-1) - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def bounding_window(wanted: Tensor) -> list[Window]:
    """The smallest window that holds all cells (h, w) that are True; none where none is."""
    rows, columns = wanted.any(1).nonzero().flatten().tolist(), wanted.any(0).nonzero().flatten().tolist()
    return [Window(rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)] if rows else []


def merged(windows: Sequence[Window]) -> tuple[Window, ...]:
    """Windows that hold the same cells, two in one where one is cheaper than both."""
    apart: list[Window] = []
    for window in windows:
        pays = True
        while pays:
            pays = False
            for other in apart:
                both = window.union(other)
                if cost(both) <= cost(window) + cost(other):
                    apart.remove(other)
                    window, pays = both, True
                    break
        apart.append(window)
    return tuple(apart)


def cost(window: Window) -> int:
    """What computing a window costs, in cells."""
    return window.n_cells + WINDOW_OVERHEAD


def grouped_windows(wanted: Tensor, reach: int) -> tuple[Window, ...]:
    """Windows that hold all cells (h, w) that are True, one for each group of them.

    Args:
        reach: cells nearer than twice this are a group: what is computed around each would overlap.
    """
    near = binary_dilation(wanted.numpy(), np.ones((2 * reach + 1,) * 2)) if reach else wanted.numpy()
    groups, n = label(near, np.ones((3, 3)))
    groups = torch.from_numpy(groups)
    return merged([window for group in range(1, n + 1) for window in bounding_window((groups == group) & wanted)])
