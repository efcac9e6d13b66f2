"""How images are prepared for an exported network: placement, channel order, scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from detxai.geometry import Geometry

Placement = Literal["centre", "top left", "stretch"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """From an RGB image to the network's input.

    Args:
        placement: ``"centre"``: resized to fit, grey around it (ultralytics' letterbox); ``"top left"``: grey below and
            to the right (YOLOX); ``"stretch"``: resized to the whole input, whatever that does to the proportions.
            A network that takes any size gets the photo as it is.
        colour: the order of the channels.
        largest: what white is: 1 or 255.
        mean, std: of each channel in that order, in shares of white: ``(x - mean) / std`` is what the network reads.
        grey: of what lies around the photo, of 255.
    """

    placement: Placement = "centre"
    colour: Literal["rgb", "bgr"] = "rgb"
    largest: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grey: int = 114

    def __post_init__(self) -> None:
        if self.placement not in get_args(Placement):
            raise ValueError(f"placement must be one of {get_args(Placement)}, got {self.placement!r}")
        if self.colour not in ("rgb", "bgr"):
            raise ValueError(f"colour must be 'rgb' or 'bgr', got {self.colour!r}")
        if not self.largest > 0 or min(self.std) <= 0:
            raise ValueError(f"largest and std must be positive, got {self.largest!r} and {self.std!r}")

    def geometry(self, image_size: tuple[int, int], input_size: tuple[int, int] | None) -> Geometry:
        """Where a photo of ``image_size`` lies in the network's input; sizes are (height, width)."""
        if input_size is None:
            return Geometry(image_size, image_size, image_size)
        if self.placement == "stretch":
            return Geometry(image_size, input_size, input_size)
        share = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
        if self.placement == "top left":  # YOLOX cuts off, ultralytics rounds
            height, width = (max(1, int(side * share)) for side in image_size)
            return Geometry(image_size, input_size, (height, width))
        height, width = (max(1, round(side * share)) for side in image_size)
        top, left = (round((whole - own) / 2 - 0.1) for whole, own in zip(input_size, (height, width), strict=True))
        return Geometry(image_size, input_size, (height, width), (top, left))

    def __call__(
        self, image: npt.NDArray[np.uint8], input_size: tuple[int, int] | None
    ) -> tuple[npt.NDArray[np.float32], Geometry]:
        """The input (3, h, w) for a photo (H, W, 3), and where it lies in there."""
        place = self.geometry((image.shape[0], image.shape[1]), input_size)
        height, width = place.resized_size
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        whole = np.full((*place.input_size, 3), self.grey, dtype=np.uint8)
        top, left = place.offset
        whole[top : top + height, left : left + width] = image
        shares = (whole if self.colour == "rgb" else whole[..., ::-1]).astype(np.float32) / 255
        mean, std = (np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        read = (shares - mean) / std * np.float32(self.largest)
        return np.ascontiguousarray(read.transpose(2, 0, 1), dtype=np.float32), place
