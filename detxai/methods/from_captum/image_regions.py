"""An image cut into regions once, for methods that hide and show regions of it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.regions import Partitions, superpixels
from detxai.images import to_tensor
from detxai.methods.checks import check_choice

Cut = Literal["superpixels", "grid"]


def cut_into_regions(canvas: Canvas, cut: Cut, n_regions: int) -> Tensor:
    """(h, w) int64 the region, from 0, of each pixel of the canvas.

    Args:
        canvas: the image.
        cut: ``"superpixels"`` follow the image's edges; the cells of a ``"grid"`` are about square.
        n_regions: about how many.

    Raises:
        ImportError: superpixels without scikit-image.
        ValueError: fewer than two regions came of it.
    """
    device = canvas.clean.tensor.device
    if cut == "superpixels":
        image = canvas.from_image(to_tensor(canvas.clean.images[0])).clamp(0, 1)
        labels = superpixels(image, n_regions).labels[0].to(device)
    else:
        labels = grid_cells(canvas.size, n_regions).to(device)
    if int(labels.max()) == 0:
        raise ValueError(f"n_regions must cut the image into two regions or more, got one of {n_regions}")
    return labels


def grid_cells(size: tuple[int, int], n_regions: int) -> Tensor:
    """(h, w) int64 the cell of each pixel, row by row, in a grid of about ``n_regions`` about square cells.

    >>> grid_cells((2, 4), 2)
    tensor([[0, 0, 1, 1],
            [0, 0, 1, 1]])
    """
    height, width = size
    n_rows = min(max(round((n_regions * height / width) ** 0.5), 1), height)
    n_columns = min(max(round(n_regions / n_rows), 1), width)
    rows = torch.arange(height) * n_rows // height
    columns = torch.arange(width) * n_columns // width
    return Partitions.from_labels((rows[:, None] * n_columns + columns)[None]).labels[0]


def check_cut(cut: object) -> None:
    """Raise ``ValueError`` where ``cut`` is no way to cut an image."""
    check_choice("regions", cut, get_args(Cut))
