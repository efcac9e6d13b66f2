"""ultralytics' resizing and padding of images, and the way back for boxes, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import one_if_equal
from detxai.adapters.ultralytics.checkpoint import ultralytics_module
from detxai.geometry import Geometry

GREY = 114  # ultralytics' padding, of 255


def rounded_size(size: object, stride: int) -> tuple[int, int]:
    """An image size as ultralytics reads it: (height, width), each rounded up to whole strides.

    Raises:
        TypeError: ``size`` is neither a number nor a pair of them.
        ValueError: a side is not positive.

    >>> rounded_size(600, 32), rounded_size([480, 640], 32)
    ((608, 608), (480, 640))
    """
    sides = [size] if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else []
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise TypeError(f"input_size must be a whole number or (height, width), got {size!r}")
    if min(sides) <= 0:
        raise ValueError(f"input_size must be positive, got {size!r}")
    height, width = (math.ceil(side / stride) * stride for side in (sides[0], sides[-1]))
    return height, width


def letterbox(
    array: npt.NDArray[Any], size: tuple[int, int], stride: int, *, rectangle: bool, stretch: bool
) -> tuple[npt.NDArray[Any], Geometry]:
    """One image, resized and padded as ultralytics' predictor does.

    Args:
        array: (H, W, 3), uint8 or float32 in [0, 1].
        size: (height, width) that the image must fit into.
        stride: what the sides of the result must be multiples of.
        rectangle: pad only to the next multiple of ``stride``, not to all of ``size``.
        stretch: fill ``size``, whatever that does to the proportions (RT-DETR).

    Returns:
        The model's input (h, w, 3) in the dtype of ``array``, and how the image lies in it.
    """
    grey = GREY if array.dtype == np.uint8 else GREY / 255
    box = ultralytics_module("data.augment").LetterBox(
        size, auto=rectangle and not stretch, scale_fill=stretch, stride=stride, padding_value=grey
    )
    placed = box(image=array)
    where = box.get_params({"img": array})
    width, height = where["new_unpad"]
    geometry = Geometry(
        image_size=(array.shape[0], array.shape[1]),
        input_size=(placed.shape[0], placed.shape[1]),
        resized_size=(int(height), int(width)),
        offset=(int(where["top"]), int(where["left"])),
    )
    return placed, geometry


def boxes_to_images(boxes: Tensor, geometries: Sequence[Geometry]) -> Tensor:
    """Boxes from input pixels to each image's own pixels, clipped to it, as ultralytics reports them.

    Args:
        boxes: (B, N, 4) xyxy, input pixels of letterboxed images.
        geometries: of the B images.

    Returns:
        (B, N, 4) xyxy; differentiable.
    """
    scale, shift, sides = _affine(tuple(geometries), boxes.device, boxes.dtype)
    return torch.minimum((boxes * scale + shift).clamp(min=0), sides)


def rotated_to_images(boxes: Tensor, geometries: Sequence[Geometry]) -> Tensor:
    """The upright boxes around rotated ones, in each image's pixels, as ``Results.obb.xyxy``: not clipped.

    Args:
        boxes: (B, N, 5) centre, size and angle (radians), input pixels of letterboxed images.
        geometries: of the B images.

    Returns:
        (B, N, 4) xyxy; differentiable.
    """
    scale, shift, _ = _affine(tuple(geometries), boxes.device, boxes.dtype)
    centre = boxes[..., :2] * scale[..., :2] + shift[..., :2]
    width, height = (boxes[..., 2:4] * scale[..., :2] / 2).split(1, -1)
    cos, sin = boxes[..., 4:].cos(), boxes[..., 4:].sin()
    reach_x = (width * cos).abs() + (height * sin).abs()
    reach_y = (width * sin).abs() + (height * cos).abs()
    reach = torch.cat([reach_x, reach_y], -1)
    return torch.cat([centre - reach, centre + reach], -1)


def fractions_to_images(boxes: Tensor, geometries: Sequence[Geometry]) -> Tensor:
    """RT-DETR's boxes (B, N, 4) xyxy, from fractions of the stretched image to each image's pixels; not clipped."""
    return boxes * _affine(tuple(geometries), boxes.device, boxes.dtype)[2]


@lru_cache(maxsize=32)  # the same few images are explained many times: no transfer to the device for each pass
def _affine(
    geometries: tuple[Geometry, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 1, 4) each: the scale and shift from input to image pixels, and the image's width, height, width, height."""
    different = one_if_equal(geometries)
    rows = [(*_scale_and_shift(geometry), list(geometry.image_size[::-1]) * 2) for geometry in different]
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        scale, shift, sides = torch.tensor(rows, dtype=torch.float64).to(device, dtype).unbind(1)
    return scale[:, None], shift[:, None], sides[:, None]


def _scale_and_shift(geometry: Geometry) -> tuple[list[float], list[float]]:
    # scale_boxes computes the padding again from the two sizes, for some shapes up to a pixel off where the letterbox
    # put it; its effect on a unit box at the origin tells its effect on any box
    unit = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    scale_boxes = ultralytics_module("utils.ops").scale_boxes
    x, y, scale_x, scale_y = scale_boxes(geometry.input_size, unit, geometry.image_size, xywh=True)[0].tolist()
    return [scale_x, scale_y] * 2, [x, y] * 2
