"""The small pictures of a report, written where an address would stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib import colormaps
from PIL import ImageDraw

from detxai.images import data_uri
from detxai.pages.overlays import COLOURS

WIDTH = 380  # of a photo, pixels
OPACITY = 0.75
ANNOTATED, SUPPRESSING = (110, 231, 160), (255, 170, 60)


def photo_under_map(
    image: npt.NDArray[np.uint8], heatmap: npt.NDArray[np.float32], row: dict[str, Any], *, with_map: bool
) -> str:
    """The photo with its boxes, as a data URI: the box white, the annotation green and the suppressor orange."""
    scale = min(1.0, WIDTH / image.shape[1], WIDTH / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BOX)
    if with_map:
        heat = np.array(PIL.Image.fromarray(heatmap).resize(size, PIL.Image.Resampling.BILINEAR))[..., None].clip(0, 1)
        colours = colormaps[COLOURS["evidence"]](heat[..., 0])[..., :3] * 255
        # a grey ground: the colours of the map must not be mistaken for those of the photo
        grey = np.array(picture, dtype=np.float32).mean(axis=2, keepdims=True) * 0.8
        picture = PIL.Image.fromarray((grey + OPACITY * heat * (colours - grey)).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    if row["annotation_box"] is not None:
        _outline(draw, row["annotation_box"], scale, ANNOTATED)
    if row["suppressor_box"] is not None:
        _outline(draw, row["suppressor_box"], scale, SUPPRESSING)
    if row["score"] is not None:
        _outline(draw, row["box"], scale, (255, 255, 255))
    return data_uri(picture, "WEBP", quality=72)


def average_picture(mean: npt.NDArray[np.float64], top: float) -> str:
    """An average over boxes, coloured from 0 to ``top``, as a data URI."""
    colours = colormaps[COLOURS["evidence"]](mean / top if top > 0 else mean)[..., :3]
    return data_uri(PIL.Image.fromarray((colours * 255).astype(np.uint8)), "PNG", optimize=True)


def _outline(draw: ImageDraw.ImageDraw, box: list[float], scale: float, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = (side * scale for side in box)
    right, bottom = max(right, left), max(bottom, top)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black")
    draw.rectangle((left, top, right, bottom), outline=colour)
    draw.rectangle((left + 1, top + 1, max(right - 1, left + 1), max(bottom - 1, top + 1)), outline="black")
