"""A map as an 8-bit PNG with its scale, and back; zero stays zero, and no sign changes."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from detxai.adapters.detector import Features
from detxai.geometry import Geometry
from detxai.images import open_image

LEVELS = 254  # steps between smallest and largest value; the 255th is the room to put a level on zero


@dataclass(frozen=True)
class StoredMap:
    """A map in 256 levels: ``values = offset + scale * pixel``, within half a ``scale`` of what it was.

    Attributes:
        png: an 8-bit grey PNG.
        scale: of one level, in the map's own units; 0 for a flat map.
        offset: the value of pixel 0.
    """

    png: bytes
    scale: float
    offset: float


def store_map(values: npt.NDArray[np.float32], stride: int = 1) -> StoredMap:
    """A map (H, W) in 256 levels.

    The rounding moves a value by at most half a level, ``scale / 2``: 0.2 % of the map's range. Where the map holds
    both signs, zero is a level of its own, so that what is evidence neither for nor against a box stays so.

    Args:
        values: (H, W) float32, signed.
        stride: image pixels to a stored one, along each axis; their mean is stored. 1 keeps the image's resolution.

    >>> stored = store_map(np.array([[-1.0, 0.0, 0.27]], dtype=np.float32))
    >>> [round(float(v), 6) for v in load_map(stored, 1, 3)[0]]
    [-1.0, 0.0, 0.27]
    """
    coarse = values if stride == 1 else _means(values, stride)
    low, high = float(coarse.min()), float(coarse.max())
    scale = (high - low) / LEVELS
    if scale == 0:
        return StoredMap(_png(np.zeros(coarse.shape, dtype=np.uint8)), 0.0, low)
    offset = -round(-low / scale) * scale if low < 0 < high else low
    levels = np.rint((coarse - np.float32(offset)) * np.float32(1 / scale)).clip(0, 255)
    return StoredMap(_png(levels.astype(np.uint8)), scale, offset)


@dataclass(frozen=True)
class LayerCells:
    """The cells of a layer as they lie over an image: where a map is kept at the layer's resolution.

    Attributes:
        geometry: from the image to the model's input.
        shape: (h, w) of the layer's output.
    """

    geometry: Geometry
    shape: tuple[int, int]

    @classmethod
    def finest(cls, features: Features) -> LayerCells:
        """Those of the finest level."""
        shapes = [(int(level.shape[-2]), int(level.shape[-1])) for level in features.levels.values()]
        return cls(features.inputs.geometries[0], max(shapes, key=math.prod))

    def store(self, values: npt.NDArray[np.float32]) -> StoredMap:
        """A map (H, W) of the image, at the cells.

        A map of this level alone comes back as it was, to half a ``scale``. What coarser levels add has its corners
        elsewhere: on YOLOv8n that moves values by 0.4 to 1.5 % of the map's range (root mean square).
        """
        return store_map(self.geometry.map_to_cells(torch.from_numpy(values), self.shape).numpy())

    def load(self, stored: StoredMap) -> npt.NDArray[np.float32]:
        """The map (H, W) again, brought to the image as every map of a layer is."""
        return self.geometry.map_to_image(torch.from_numpy(_stored(stored, self.shape))).numpy()

    def record(self) -> str:
        """As JSON."""
        return json.dumps({**asdict(self.geometry), "cells": self.shape})

    @classmethod
    def read(cls, record: str) -> LayerCells:
        """From JSON."""
        entries: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(record).items()
        }
        shape = entries.pop("cells")
        return cls(Geometry(**entries), shape)


def map_row(values: npt.NDArray[np.float32], stride: int, cells: LayerCells | None = None) -> dict[str, Any]:
    """A map (H, W) as a PNG: of the cells where they are given, else of every ``stride``-th pixel."""
    stored = store_map(values, stride) if cells is None else cells.store(values)
    return {
        "map_png": stored.png,
        "map_scale": stored.scale,
        "map_offset": stored.offset,
        "map_stride": stride if cells is None else None,
        "map_cells": None if cells is None else cells.record(),
    }


def load_map(stored: StoredMap, height: int, width: int, stride: int = 1) -> npt.NDArray[np.float32]:
    """The map (height, width) again, in image pixels; bilinear between stored ones where they are coarser.

    Raises:
        ValueError: the PNG is damaged, or of another size.
    """
    values = _stored(stored, (-(-height // stride), -(-width // stride)))
    if stride == 1:
        return values
    whole = PIL.Image.fromarray(values)
    inside = (0, 0, width / stride, height / stride)  # the last cells may reach beyond the image
    return np.array(whole.resize((width, height), PIL.Image.Resampling.BILINEAR, box=inside), dtype=np.float32)


def _stored(stored: StoredMap, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    try:
        with open_image(io.BytesIO(stored.png)) as picture:
            levels = np.array(picture)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"map_png is damaged: {error}") from error
    if levels.shape != shape or levels.dtype != np.uint8:
        raise ValueError(f"map_png must be 8-bit grey of shape {shape}, got {levels.dtype} {levels.shape}")
    return (stored.offset + stored.scale * levels.astype(np.float64)).astype(np.float32)


def _means(values: npt.NDArray[np.float32], stride: int) -> npt.NDArray[np.float32]:
    return np.array(PIL.Image.fromarray(values).reduce(stride), dtype=np.float32)


def _png(levels: npt.NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    # the fastest compression: the default takes three times as long for a quarter less
    PIL.Image.fromarray(levels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()
