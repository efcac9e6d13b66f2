"""Versions of one image, in its own pixels, as the model reads them: differentiable, for whoever optimises pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.detector import Features, Inputs
from detxai.adapters.network import NetworkDetector
from detxai.images import Image, load_image, to_tensor

# the ways in which models resize; which one a model uses is found by comparing with what it made of the image
RESIZES: tuple[Mapping[str, Any], ...] = (
    {"mode": "bilinear", "align_corners": False},
    {"mode": "bilinear", "align_corners": False, "antialias": True},
    {"mode": "bicubic", "align_corners": False},
    {"mode": "bicubic", "align_corners": False, "antialias": True},
)
ROUNDING = 0.02  # of the span from black to white: models that resize whole numbers round


@dataclass(frozen=True, eq=False)
class PixelVersions:
    """From versions of one image, (B, 3, H, W) in [0, 1], to the model's inputs.

    ``input = clean + span * resize(version - image)``: exact at the image itself, whatever the model does to prepare
    it. ``span`` is how far black and white lie apart in the model's input; it is zero in the padding.

    Attributes:
        clean: the image, prepared.
        pixels: (1, 3, H, W) the image in [0, 1].
        span: (1, 3, h, w) of the model's input, or (1, 3, 1, 1) where it is the same everywhere.
        resize: arguments of ``torch.nn.functional.interpolate``, those that come nearest to the model's own.
    """

    clean: Inputs
    pixels: Tensor
    span: Tensor
    resize: Mapping[str, Any]

    @classmethod
    def of_image(cls, detector: NetworkDetector, image: Image | Inputs | Features) -> PixelVersions:
        """The versions of an image.

        Raises:
            ValueError: the model's preparation is not a resizing, a scale and a shift.
        """
        clean = detector.prepare_one(image)
        array = load_image(clean.original)
        pixels = to_tensor(array)[None].to(clean.tensor)
        plain = clean.images[0]
        black, grey, white = (detector.prepare(np.full_like(plain, value)).tensor for value in (0, 102, 255))
        span = white - black
        if not torch.allclose(grey, black + 0.4 * span, atol=ROUNDING * float(span.abs().amax())):
            raise ValueError(
                "model must prepare an image by resizing it, a scale and a shift, so that pixels can be optimised; "
                f"{detector.model_name} does something else"
            )
        with torch.no_grad():
            errors = [
                float((black + span * _placed(pixels, clean, resize) - clean.tensor).abs().mean()) for resize in RESIZES
            ]
        return cls(clean, pixels, span, RESIZES[errors.index(min(errors))])

    @classmethod
    def of_blank(cls, detector: NetworkDetector, size: int) -> PixelVersions:
        """The versions of a grey square that the model reads as it is, without the resizing that photos go through.

        Args:
            detector: what reads it.
            size: its side in pixels; networks want multiples of their stride.
        """
        plain = np.full((size, size, 3), 128, dtype=np.uint8)
        prepared = detector.prepare_one(plain)
        (top, left), (height, width) = prepared.geometries[0].offset, prepared.geometries[0].resized_size
        middle = (slice(None), slice(None), slice(top + height // 2, None), slice(left + width // 2, None))
        black, white = (detector.prepare(np.full_like(plain, v)).tensor[middle][..., :1, :1] for v in (0, 255))
        pixels = black.new_full((1, 3, size, size), 128 / 255)
        geometry = replace(prepared.geometries[0], input_size=(size, size), resized_size=(size, size), offset=(0, 0))
        inputs = Inputs(black + (white - black) * pixels, (geometry,), (plain,))
        return cls(inputs, pixels, white - black, RESIZES[0])

    def inputs(self, versions: Tensor) -> Inputs:
        """Versions (B, 3, H, W) in [0, 1], as the model reads them.

        Raises:
            ValueError: they are not of the image's size.
        """
        if versions.ndim != 4 or versions.shape[1:] != self.pixels.shape[1:]:
            raise ValueError(f"versions must have shape (B, {self.pixels.shape[1:]}), got {tuple(versions.shape)}")
        change = _placed(versions - self.pixels, self.clean, self.resize)
        return self.clean.with_tensor(self.clean.tensor + self.span * change)


def _placed(pixels: Tensor, inputs: Inputs, resize: Mapping[str, Any]) -> Tensor:
    """Pixels (B, 3, H, W) of the image, as (B, 3, h, w) of the model's input; 0 in the padding."""
    geometry = inputs.geometries[0]
    height, width = geometry.resized_size
    if (height, width) != tuple(pixels.shape[-2:]):
        pixels = torch.nn.functional.interpolate(pixels, size=(height, width), **resize)
    top, left = geometry.offset
    below, right = geometry.input_size[0] - top - height, geometry.input_size[1] - left - width
    return torch.nn.functional.pad(pixels, (left, right, top, below))
