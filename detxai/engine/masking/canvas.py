"""One image with parts of it hidden, many times over: what black-box methods and faithfulness measures ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.sliced import parts_of
from detxai.detections import Candidates
from detxai.engine.batching import batch_size_for, images_at_once
from detxai.engine.masking.part_views import PartViews
from detxai.geometry import Geometry
from detxai.images import Image
from detxai.targets import Target

Filling = Literal["black", "mean", "blur", "noise"]
FILLINGS: tuple[Filling, ...] = ("black", "mean", "blur", "noise")
COPIES = 8  # of a view in memory at the most, while its parts are cut out
BLUR = 0.1  # standard deviation of the blur, as a share of the image's shorter side: objects go, colours stay


@dataclass(frozen=True, eq=False)
class Canvas:
    """One image as the model reads it, and what stands where it is hidden.

    Hiding happens on the device, in input pixels: ``keep * image + (1 - keep) * filling``, with both prepared by the
    adapter. A model's normalisation is affine, so it commutes with that; its padding stays padding.

    Attributes:
        clean: the image, prepared; a batch of one.
        filling: (F, 3, h, w) the fillings, prepared in the same way.
        parts: the views of a detector that takes the image part by part; None: it takes the whole.
    """

    clean: Inputs
    filling: Tensor
    parts: PartViews | None = None

    @classmethod
    def with_fill(
        cls, detector: Detector, image: Image | Features, fill: Filling | Sequence[float] = "black", seed: int = 0
    ) -> Canvas:
        """Prepare an image and its filling.

        Args:
            detector: whose preparation.
            image: the image.
            fill: ``"black"``, the image's ``"mean"`` colour, a Gaussian ``"blur"`` of it (standard deviation a tenth
                of its shorter side), uniform ``"noise"``, or an RGB colour, three numbers in [0, 1].
            seed: of the noise.

        Raises:
            ValueError: no such filling.
        """
        return cls.with_fills(detector, image, [fill], seed)

    @classmethod
    def with_fills(
        cls, detector: Detector, image: Image | Features, fills: Sequence[Filling | Sequence[float]], seed: int = 0
    ) -> Canvas:
        """Prepare an image and F fillings, for views that differ in what stands where the image is hidden.

        Raises:
            ValueError: no such filling, or none at all.
        """
        if not fills:
            raise ValueError("fills must name at least one filling, got none")
        clean = detector.prepare_one(image)
        fillings = [detector.prepare(filling_image(clean.images[0], fill, seed)).tensor for fill in fills]
        filling, parts = torch.cat(fillings), parts_of(detector, clean)
        if parts is None:
            return cls(clean, filling)
        return cls(clean, filling, PartViews(detector, parts, parts.pixels(torch.cat([clean.tensor, filling]))))

    @property
    def geometry(self) -> Geometry:
        return self.clean.geometries[0]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image within the model's input, in input pixels: the size of a mask."""
        return self.geometry.resized_size

    @property
    def views_at_once(self) -> int:
        """How many views of the image fit the device at once; where it is seen by parts, these are batched apart."""
        if self.parts is None:
            return images_at_once(self.clean.tensor)
        one = self.clean.tensor
        return batch_size_for(one.device, COPIES * one.numel() * one.element_size())

    def candidates(
        self,
        detector: Detector,
        views: Inputs,
        targets: Sequence[Target] | None = None,
        asked: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Candidates:
        """The candidates of B views, as far as the targets can tell.

        Args:
            detector: what is asked.
            views: of ``inputs``, or the clean image.
            targets: the questions that these candidates are for; None: any.
            asked: (B,) int64, which one each view is asked; None: all.
            batch_size: passes at once, where there are several a view; None: what fits the device.
        """
        if self.parts is None or self.parts.detector is not detector:
            return detector.candidates(views)
        return self.parts.candidates(views, targets, asked, batch_size)

    def n_passes(self, n_views: int) -> int:
        """How many forward passes so many views took."""
        return n_views if self.parts is None else self.parts.n_passes

    def details(self) -> dict[str, Any]:
        """About the parts that the detector took, for the record; nothing where it takes the whole image."""
        return {} if self.parts is None else self.parts.details()

    def inputs(self, keep: Tensor, fills: Tensor | None = None) -> Inputs:
        """The image under B masks.

        Args:
            keep: (B, height, width) of ``size``, in [0, 1]: 1 shows the image, 0 the filling.
            fills: (B,) int64, the number of each mask's filling; None: the first one.
        """
        (top, left), (height, width) = self.geometry.offset, self.size
        image = self.clean.tensor
        filling = self.filling[:1] if fills is None else self.filling[fills]
        tensor = image.expand(len(keep), -1, -1, -1).clone()
        inside = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
        torch.lerp(filling[inside], image[inside], keep[:, None].to(image), out=tensor[inside])
        return self.clean.with_tensor(tensor)

    def from_image(self, maps: Tensor) -> Tensor:
        """Maps (..., H, W) over the original image's pixels, read at the input's pixels: (..., height, width).

        Bilinear; where the input is smaller than the image, each input pixel is the mean over the area it covers.
        """
        flat = maps.reshape(-1, 1, *maps.shape[-2:])
        shrinks = self.size[0] < maps.shape[-2] or self.size[1] < maps.shape[-1]
        small = torch.nn.functional.interpolate(
            flat, size=self.size, mode="bilinear", align_corners=False, antialias=shrinks
        )
        return small.reshape(*maps.shape[:-2], *self.size)

    def to_image(self, maps: Tensor) -> Tensor:
        """Maps (..., height, width) over the image within the input, as maps over the original image's pixels."""
        alone = replace(self.geometry, input_size=self.size, offset=(0, 0))
        return alone.map_to_image(maps)


def filling_image(
    image: npt.NDArray[np.uint8], fill: Filling | Sequence[float] = "black", seed: int = 0
) -> npt.NDArray[np.uint8]:
    """What stands where ``image`` (H, W, 3) is hidden: see ``Canvas.with_fill``.

    >>> filling_image(np.full((1, 2, 3), 9, dtype=np.uint8), "mean").tolist()
    [[[9, 9, 9], [9, 9, 9]]]
    """
    if isinstance(fill, str):
        if fill == "black":
            return np.zeros_like(image)
        if fill == "mean":
            return np.broadcast_to(image.mean((0, 1)).round().astype(np.uint8), image.shape).copy()
        if fill == "blur":
            return _blurred(image)
        if fill == "noise":
            return np.random.default_rng(seed).integers(0, 256, image.shape, dtype=np.uint8)
        raise ValueError(f"fill must be one of {FILLINGS} or an RGB colour in [0, 1], got {fill!r}")
    colour = np.asarray(fill, dtype=np.float64)
    if colour.shape != (3,) or not ((colour >= 0) & (colour <= 1)).all():
        raise ValueError(f"fill must be one of {FILLINGS} or an RGB colour in [0, 1], got {fill!r}")
    return np.broadcast_to((colour * 255).round().astype(np.uint8), image.shape).copy()


def _blurred(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import cv2  # a whole library for one filling: only where it is asked for

    sigma = max(BLUR * min(image.shape[:2]), 1.0)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), dtype=np.uint8)
