"""Maps over the pixels of an image, masks of boxes, and what is no map at all."""

from __future__ import annotations

import torch
from torch import Tensor


def where_known(values: Tensor, known: Tensor) -> Tensor:
    """(T,) float32 ``values``, NaN for the detections that are not ``known``."""
    return torch.where(known, values.float(), torch.nan)


def heatmaps(maps: Tensor) -> Tensor:
    """What speaks for the box, in [0, 1]: the positive part of maps (..., H, W) over its maximum; zeros stay zeros.

    >>> heatmaps(torch.tensor([[[-3.0, 1.0, 2.0]]]))
    tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    positive = maps.clamp(min=0)
    peak = positive.amax((-2, -1), keepdim=True)
    return positive / torch.where(peak > 0, peak, 1)


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixels whose centres lie in each box: (T, H, W) bool.

    Args:
        boxes: (T, 4) xyxy, pixels.
        size: (height, width).

    >>> box_masks(torch.tensor([[1.0, 0.0, 2.6, 1.0]]), (2, 4)).int()
    tensor([[[0, 1, 1, 0],
             [0, 0, 0, 0]]], dtype=torch.int32)
    """
    rows, columns = (torch.arange(n, device=boxes.device) + 0.5 for n in size)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    return ((rows >= y1) & (rows < y2))[:, :, None] & ((columns >= x1) & (columns < x2))[:, None, :]


def refuse_cropped(maps: Tensor, boxes: Tensor) -> None:
    """Refuse maps (T, H, W) that are zero wherever their box (T, 4) does not reach, and not zero within it.

    Raises:
        ValueError: such a map is among them; a map of the whole image was cut to its box, and would score as if
            it had found the box by itself.
    """
    reach = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], 1)
    inside = box_masks(reach, (maps.shape[-2], maps.shape[-1]))
    zero = maps == 0
    cropped = (zero | inside).all((1, 2)) & ~inside.all((1, 2)) & ~zero.all((1, 2))
    if bool(cropped.any()):
        raise ValueError(
            f"maps must not be cropped to their box: number {int(cropped.nonzero()[0])} is exactly zero outside its "
            "box, and would score as if it had found the box by itself; pass the whole map, or pass "
            "allow_cropped=True where it is so by construction"
        )
