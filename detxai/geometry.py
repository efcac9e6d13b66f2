"""Image pixels <-> model input <-> feature cells, and the exact way back.

Coordinates are continuous: pixel ``i`` covers ``[i, i + 1)`` and its centre lies at ``i + 0.5``. Sizes are
``(height, width)``; boxes are xyxy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SMOOTHNESS = 1e-3  # weight of the steps between neighbours, where a pixel's own is 1


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes paired by broadcasting.

    Args:
        first: (..., 4) xyxy.
        second: (..., 4) xyxy, in the same space; the leading shapes broadcast.

    Returns:
        (...) in [0, 1], differentiable; 0 where both boxes are empty.

    >>> box_iou(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([0.0, 0.0, 10.0, 5.0]))
    tensor(0.5000)
    """
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = _product((bottom_right - top_left).clamp(min=0))
    areas = _product(first[..., 2:] - first[..., :2]) + _product(second[..., 2:] - second[..., :2])
    # an empty union has an empty intersection: any positive divisor gives the 0 we want, without a NaN gradient
    return intersection / (areas - intersection).clamp(min=torch.finfo(intersection.dtype).tiny)


def _product(sides: Tensor) -> Tensor:
    """Width times height, (..., 2) to (...); ``prod`` over two numbers takes several times as long."""
    return sides[..., 0] * sides[..., 1]


def cell_size(input_size: int, n_cells: int) -> float:
    """Input pixels per feature cell along one axis.

    Networks halve by strides, so the power of two is the true size where it fits; ``input_size / n_cells`` is
    wrong by up to a cell where a level was rounded up (an 800-pixel input has 13 cells of 64 pixels, not of 61.5).

    >>> cell_size(800, 13), cell_size(640, 80), cell_size(100, 30)
    (64.0, 8.0, 3.3333333333333335)
    """
    power = 2.0 ** round(math.log2(input_size / n_cells))
    if n_cells in (math.ceil(input_size / power), math.floor(input_size / power)):
        return power
    return input_size / n_cells


def interpolation_matrix(n_out: int, n_in: int, start: float, step: float) -> Tensor:
    """Linear interpolation along one axis, as a matrix.

    Output ``i`` reads the input at cell coordinate ``start + i * step`` (cell centres lie at whole numbers),
    and the nearest cell beyond either end.

    Returns:
        (n_out, n_in) float64; each row sums to 1.

    >>> interpolation_matrix(4, 2, start=-0.25, step=0.5)
    tensor([[1.0000, 0.0000],
            [0.7500, 0.2500],
            [0.2500, 0.7500],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    place = (start + step * torch.arange(n_out, dtype=torch.float64)).clamp(0, n_in - 1)
    low = place.floor().long().clamp(max=max(n_in - 2, 0))
    high = (low + 1).clamp(max=n_in - 1)
    share = place - low
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    rows = torch.arange(n_out)
    matrix[rows, low] += 1 - share
    matrix[rows, high] += share
    return matrix


def _least_squares_inverse(reads: Tensor) -> Tensor:
    """(n, m): from what ``reads`` (m, n) makes of n values back to the values, by least squares."""
    steps = torch.diff(torch.eye(reads.shape[1], dtype=reads.dtype), dim=0)
    return torch.cholesky_solve(reads.T, torch.linalg.cholesky(reads.T @ reads + SMOOTHNESS * steps.T @ steps))


@dataclass(frozen=True)
class Geometry:
    """How one image was placed into the model's input: resized, then padded.

    Attributes:
        image_size: (height, width) of the original image, pixels.
        input_size: (height, width) of the whole model input, padding included.
        resized_size: (height, width) of the image inside the model input.
        offset: (top, left) padding before the image, input pixels.
        cell_centre: where in its cell the detector itself takes a feature to lie, as a fraction: 0.5 is the middle
            (YOLO's anchor points); torchvision's anchors and RoIAlign put feature ``i`` at ``i * stride``, the cell's
            near edge, which is also where the receptive field of padded strided convolutions is centred.
        cell_steps: input pixels from one cell to the next, where the detector itself says so, as SSD does for its
            default boxes: of each level's; a grid takes the one nearest to input size / cells. Empty: exactly input
            size / cells. None: strides of the network, see ``cell_size``.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    resized_size: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    cell_centre: float = 0.5
    cell_steps: tuple[float, ...] | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) input pixels per image pixel."""
        return self.resized_size[0] / self.image_size[0], self.resized_size[1] / self.image_size[1]

    def boxes_to_input(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) in image pixels, as boxes in input pixels."""
        scale, shift = self._affine(boxes)
        return boxes * scale + shift

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) in input pixels, as boxes in image pixels; not clipped."""
        scale, shift = self._affine(boxes)
        return (boxes - shift) / scale

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        (scale_y, scale_x), (top, left) = self.scale, self.offset
        return like.new_tensor([scale_x, scale_y] * 2), like.new_tensor([left, top] * 2, dtype=like.dtype)

    def cells_of_image(self, n_cells: tuple[int, int]) -> Tensor:
        """(h, w) bool: which cells of a grid over the model input the image is mapped from; the others are padding.

        >>> Geometry((4, 2), (4, 4), (4, 2)).cells_of_image((4, 4))[0]
        tensor([ True,  True, False, False])
        """
        down, right = (self._axis_matrix(axis, n).any(0) for axis, n in enumerate(n_cells))
        return down[:, None] & right

    def map_to_image(self, values: Tensor) -> Tensor:
        """A map over the cells of the model input, as a map over the image's pixels.

        Bilinear between cell centres, constant beyond the outermost ones, the padding cut away: one linear step
        from cells to image pixels, so a feature at one cell peaks at the pixel it lies at.

        Args:
            values: (..., h, w), any grid laid over the whole model input (``h = input height`` means pixels).

        Returns:
            (..., height, width) of the original image, same dtype and device.
        """
        down, right = (
            _cached_matrix(self, axis, values.shape[axis - 2], values.device, values.dtype) for axis in (0, 1)
        )
        return down @ values @ right.T

    def amounts_to_image(self, values: Tensor) -> Tensor:
        """Amounts in the pixels of the model input, as amounts in the image's pixels, whose sum is the same.

        Each input pixel's amount is shared out over the image pixels that it covers, by area; what lies in the padding
        is left out. Attributions that add up to a score still do so.

        Args:
            values: (..., h, w) of the model input.

        Returns:
            (..., height, width) of the original image, same dtype and device.

        >>> Geometry((1, 2), (1, 4), (1, 4)).amounts_to_image(torch.tensor([[1.0, 2.0, 3.0, 5.0]]))
        tensor([[3., 8.]])
        """
        (top, left), (height, width) = self.offset, self.resized_size
        inside = values[..., top : top + height, left : left + width]
        down, right = (
            _area_overlap(self.image_size[axis], self.resized_size[axis]).to(values.device, values.dtype)
            for axis in (0, 1)
        )
        return down @ inside @ right.T

    def cell_area(self, n_cells: tuple[int, int]) -> float:
        """Image pixels that a cell of a grid over the model input stands for.

        >>> Geometry((50, 50), (100, 200), (100, 100)).cell_area((10, 20))
        25.0
        """
        height, width = (self._cell_size(axis, n) / self.scale[axis] for axis, n in enumerate(n_cells))
        return height * width

    def map_to_cells(self, values: Tensor, n_cells: tuple[int, int]) -> Tensor:
        """A map over the image's pixels, as the map over cells whose ``map_to_image`` comes nearest to it.

        Nearest in the sum of squares, and as even as that leaves it: what came from such cells comes back within a
        thousandth of the step from one to the next; one that pixels hardly read, in the padding, is like its neighbour.

        Args:
            values: (..., height, width) of the original image.
            n_cells: (h, w) of a grid laid over the whole model input.

        Returns:
            (..., h, w), same dtype and device.
        """
        down, right = (
            _least_squares_inverse(self._axis_matrix(axis, n)).to(values.device, values.dtype)
            for axis, n in enumerate(n_cells)
        )
        return down @ values @ right.T

    def _axis_matrix(self, axis: int, n_cells: int) -> Tensor:
        size = self._cell_size(axis, n_cells)
        step = self.scale[axis] / size
        centre = 0.5 if size == 1 else self.cell_centre  # a cell of one pixel is that pixel
        start = (0.5 * self.scale[axis] + self.offset[axis]) / size - centre
        return interpolation_matrix(self.image_size[axis], n_cells, start, step)

    def _cell_size(self, axis: int, n_cells: int) -> float:
        """Input pixels per cell along one axis."""
        if self.cell_steps is None or n_cells == self.input_size[axis]:
            return cell_size(self.input_size[axis], n_cells)
        even = self.input_size[axis] / n_cells
        return min(self.cell_steps, key=lambda step: abs(math.log(step / even)), default=even)


def _area_overlap(n_out: int, n_in: int) -> Tensor:
    """(n_out, n_in) float64: how much of input pixel j lies in output pixel i of the same span; columns sum to 1."""
    out = torch.arange(n_out, dtype=torch.float64)[:, None] * n_in / n_out
    given = torch.arange(n_in, dtype=torch.float64)
    return (torch.minimum(out + n_in / n_out, given + 1) - torch.maximum(out, given)).clamp(min=0)


@lru_cache(maxsize=16)  # an image's levels are mapped once for every box: no matrix is built and sent to a device again
def _cached_matrix(geometry: Geometry, axis: int, n_cells: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(image pixels, cells) along one axis."""
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        return geometry._axis_matrix(axis, n_cells).to(device, dtype)


def box_gaussians(size: tuple[int, int], boxes: Tensor) -> Tensor:
    """A Gaussian bump on each box, (T, h, w).

    ``exp(-(dx / w)^2 - (dy / h)^2)``: d the distance to the box's centre, w and h half its sides.

    Args:
        size: (height, width) in pixels.
        boxes: (T, 4) xyxy in those pixels.
    """
    sides = []
    for axis in (1, 0):  # down, then across
        middle = (boxes[:, axis] + boxes[:, axis + 2]) / 2
        half = ((boxes[:, axis + 2] - boxes[:, axis]) / 2).clamp(min=0.5)
        pixels = torch.arange(size[1 - axis], device=boxes.device, dtype=boxes.dtype) + 0.5
        sides.append(torch.exp(-(((pixels - middle[:, None]) / half[:, None]) ** 2)))
    return sides[0][:, :, None] * sides[1][:, None, :]
