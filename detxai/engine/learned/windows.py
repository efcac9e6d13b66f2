"""Two windows on an image for each box, with equal grids: one on the box and its surroundings, one on the whole image.

Small and large boxes are thus seen at the same resolution, and what lies far from a box is seen too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detxai.engine.masking.regions import MARGIN, grown_boxes
from detxai.geometry import interpolation_matrix

GRID = 24  # cells along each side of a window
N_WINDOWS = 2  # the near one, and the whole image


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of T boxes on one canvas, each of ``GRID`` x ``GRID`` cells.

    The near window is the box grown by a quarter of its sides, as regions are drawn; the other is the whole canvas,
    whose cells count only as far as they lie outside the near one. Together they cover each pixel once.

    Attributes:
        size: (height, width) of the canvas, in pixels of the model's input.
        boxes: (T, 4) xyxy in those pixels.
    """

    size: tuple[int, int]
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def corners(self) -> Tensor:
        """(T, 2, 4) xyxy of both windows."""
        near = grown_boxes(self.boxes.float(), self.size, MARGIN)
        whole = near.new_tensor([0.0, 0.0, self.size[1], self.size[0]]).expand_as(near)
        return torch.stack([near, whole], 1)

    @cached_property
    def cell_areas(self) -> Tensor:
        """(T, 2, 1, 1) in square pixels: of one cell of each window."""
        return ((self.corners[..., 2:] - self.corners[..., :2]).prod(-1) / GRID**2)[..., None, None]

    def overlaps(self, n_cells: int = GRID) -> tuple[Tensor, Tensor]:
        """How many pixels of each row and column lie in each row and column of cells.

        Args:
            n_cells: along each side of a window.

        Returns:
            rows (T, 2, n, height) and columns (T, 2, n, width), each in [0, 1].
        """
        across, down = (
            _overlap(self.corners[..., axis], self.corners[..., axis + 2], n_cells, self.size[1 - axis])
            for axis in (0, 1)
        )
        return down, across

    def coverage(self, masks: Tensor, owners: Tensor) -> Tensor:
        """How much of each cell a mask shows.

        Args:
            masks: (V, height, width) of the canvas, in [0, 1].
            owners: (V,) int64, the box whose windows each is read in.

        Returns:
            (V, 2, GRID, GRID) in [0, 1]. Of a cell of the whole image only what lies outside the near window counts, so
            that the coverage of all that is shown is below 1 there.
        """
        return self.amounts(masks, owners) / self.cell_areas[owners]

    def amounts(self, maps: Tensor, owners: Tensor) -> Tensor:
        """The sum of a map over each cell: of a cell of the whole image, over what lies outside the near window.

        Args:
            maps: (V, height, width) of the canvas.
            owners: (V,) int64, the box whose windows each is read in.

        Returns:
            (V, 2, GRID, GRID). A pixel counts in each cell as far as it lies in it: all cells together have the map's
            own sum.
        """
        down, across = (side[owners] for side in self.overlaps())
        inside = down[:, 0].sum(1)[:, :, None] * across[:, 0].sum(1)[:, None]
        both = torch.stack([maps, maps * (1 - inside).clamp(min=0)], 1)
        return down @ both @ across.transpose(-1, -2)

    def crops(self, pixels: Tensor, n_cells: int) -> Tensor:
        """(T, 2, C, n, n): the canvas (C, height, width) in both windows, each cell the mean of what it covers."""
        down, across = (side / side.sum(-1, keepdim=True) for side in self.overlaps(n_cells))
        return down[:, :, None] @ pixels @ across[:, :, None].transpose(-1, -2)

    def positions(self) -> Tensor:
        """(T, 2, 4, GRID, GRID): where each cell lies.

        Across and down from the box's centre in half sides, squashed into (-1, 1) so that what is far differs little;
        the hill over the box of ``box_gaussians``; and 1 in the near window, 0 in the other.
        """
        steps = (torch.arange(GRID, device=self.boxes.device) + 0.5) / GRID
        low, high = self.corners[..., :2, None], self.corners[..., 2:, None]
        places = low + (high - low) * steps  # (T, 2, axis, GRID)
        half = ((self.boxes[:, 2:] - self.boxes[:, :2]) / 2).clamp(min=0.5)[:, None, :, None]
        offsets = (places - ((self.boxes[:, :2] + self.boxes[:, 2:]) / 2)[:, None, :, None]) / half
        across = offsets[:, :, 0, None, :].expand(-1, -1, GRID, -1)
        down = offsets[:, :, 1, :, None].expand(-1, -1, -1, GRID)
        near = torch.zeros_like(across)
        near[:, 0] = 1
        return torch.stack(
            [across / (1 + across.abs()), down / (1 + down.abs()), (-(across**2) - down**2).exp(), near], 2
        )

    def density(self, amounts: Tensor) -> Tensor:
        """Amounts in the cells, as a density over the canvas: (T, height, width) in units of the amounts a pixel.

        Bilinear between the centres of cells; the near window's inside it, the other's elsewhere.

        Args:
            amounts: (T, 2, GRID, GRID).
        """
        found = []
        for corners, of_box in zip(self.corners.tolist(), amounts, strict=True):
            maps = []
            for (x1, y1, x2, y2), cells in zip(corners, of_box, strict=True):
                height, width = (y2 - y1) / GRID, (x2 - x1) / GRID
                down = interpolation_matrix(self.size[0], GRID, (0.5 - y1) / height - 0.5, 1 / height)
                across = interpolation_matrix(self.size[1], GRID, (0.5 - x1) / width - 0.5, 1 / width)
                maps.append(down.to(cells) @ cells @ across.to(cells).T / (height * width))
            x1, y1, x2, y2 = corners[0]
            rows, columns = (torch.arange(n, device=amounts.device) + 0.5 for n in self.size)
            inside = ((rows >= y1) & (rows < y2))[:, None] & ((columns >= x1) & (columns < x2))
            found.append(torch.where(inside, maps[0], maps[1]))
        return torch.stack(found) if found else amounts.new_zeros(0, *self.size)

    def shares(self) -> Tensor:
        """(T, 2, GRID, GRID) in [0, 1]: how much of each cell counts, as a part of its area."""
        owners = torch.arange(len(self), device=self.boxes.device)
        return self.coverage(self.boxes.new_ones(len(self), *self.size, dtype=torch.float32), owners)

    def prior(self) -> Tensor:
        """(T, 2, GRID, GRID) from 0, sums to 1 over both: the hill over the box as amounts.

        The sum counts a cell of the whole image as far as it lies outside the near window.
        """
        amounts = self.positions()[:, :, 2] * self.cell_areas
        return amounts / (amounts * self.shares()).sum((1, 2, 3), keepdim=True).clamp(
            min=torch.finfo(amounts.dtype).tiny
        )


def _overlap(low: Tensor, high: Tensor, n_cells: int, n_pixels: int) -> Tensor:
    """(..., n_cells, n_pixels): the length of each pixel within each of the cells from ``low`` to ``high`` (...)."""
    steps = torch.arange(n_cells + 1, device=low.device) / n_cells
    edges = low[..., None] + (high - low)[..., None] * steps
    pixels = torch.arange(n_pixels, device=low.device, dtype=low.dtype)
    starts, stops = edges[..., :-1, None], edges[..., 1:, None]
    return (torch.minimum(stops, pixels + 1) - torch.maximum(starts, pixels)).clamp(min=0)
