"""A map as an 8-bit PNG with its scale, and back; zero stays zero, and no sign changes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

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
    both signs, zero is a level of its own, so that what neither speaks for nor against a box still does not.

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


def load_map(stored: StoredMap, height: int, width: int, stride: int = 1) -> npt.NDArray[np.float32]:
    """The map (height, width) again, in image pixels; bilinear between stored ones where they are coarser.

    Raises:
        ValueError: the PNG is damaged, or of another size.
    """
    try:
        with PIL.Image.open(io.BytesIO(stored.png)) as picture:
            levels = np.array(picture)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"map_png is damaged: {error}") from error
    expected = (-(-height // stride), -(-width // stride))
    if levels.shape != expected or levels.dtype != np.uint8:
        raise ValueError(f"map_png must be 8-bit grey of shape {expected}, got {levels.dtype} {levels.shape}")
    values = (stored.offset + stored.scale * levels.astype(np.float64)).astype(np.float32)
    if stride == 1:
        return values
    whole = PIL.Image.fromarray(values)
    inside = (0, 0, width / stride, height / stride)  # the last cells may reach beyond the image
    return np.array(whole.resize((width, height), PIL.Image.Resampling.BILINEAR, box=inside), dtype=np.float32)


def _means(values: npt.NDArray[np.float32], stride: int) -> npt.NDArray[np.float32]:
    return np.array(PIL.Image.fromarray(values).reduce(stride), dtype=np.float32)


def _png(levels: npt.NDArray[np.uint8]) -> bytes:
    # no options: OpenCV then takes one filter and its fastest compression; naming a level makes it try every filter
    done, encoded = cv2.imencode(".png", levels)
    if not done:
        raise ValueError(f"a map of shape {levels.shape} cannot be written as PNG")
    return encoded.tobytes()
