"""Between an image's own pixels and the input of a torchvision detector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detxai.adapters.detector import one_if_equal
from detxai.geometry import Geometry


def image_list(geometries: Sequence[Geometry], like: Tensor) -> ImageList:
    """torchvision's ``ImageList`` with the sizes of the images alone: anchors and proposals read nothing else."""
    sizes = [geometry.resized_size for geometry in geometries]
    return ImageList(like.new_zeros(1).expand(len(sizes), 3, *geometries[0].input_size), sizes)


@lru_cache(maxsize=32)  # the same few images are explained many times: no transfer to the device for each pass
def scales_and_sides(
    geometries: tuple[Geometry, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(B, 4) each: original pixels per input pixel for x1, y1, x2, y2; and the width and height (twice) to clip at.

    B is 1 for versions of one image.
    """
    different = one_if_equal(geometries)
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        original = torch.tensor([geometry.image_size for geometry in different], dtype=torch.float32, device="cpu")
        resized = torch.tensor([geometry.resized_size for geometry in different], dtype=torch.float32, device="cpu")
        scales = (original / resized).to(dtype)  # rounded as torchvision's ``resize_boxes`` does
        return scales.flip(1).repeat(1, 2).to(device), resized.flip(1).repeat(1, 2).to(device, dtype)


def boxes_to_images(boxes: Tensor, geometries: Sequence[Geometry]) -> Tensor:
    """Boxes (B, N, K, 4) in input pixels, clipped to each image and in its own pixels, as torchvision does it."""
    scales, sides = scales_and_sides(tuple(geometries), boxes.device, boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), sides[:, None, None]) * scales[:, None, None]
