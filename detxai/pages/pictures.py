"""Small pictures by Pillow: a photo under its map, boxes, captions, several pictures on one.

Some ten times as fast as a figure of matplotlib (``detxai.pages.overlays``), for pages with hundreds of pictures.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.figure import Figure
from PIL import ImageDraw, ImageFont

from detxai.explanation import Explanation
from detxai.pages.colours import blend, coloured, end_of_scale

OPACITY = 0.75  # of the strongest evidence
GREY = 0.8  # brightness of a grey ground: the colours of the map must not be mistaken for those of the photo
LINE = 18  # pixels of a line of a caption
Colour = str | tuple[int, int, int]


def fitted(photo: npt.NDArray[np.uint8], size: tuple[int, int]) -> PIL.Image.Image:
    """The photo (H, W, 3) at a size (width, height)."""
    shrinks = size[0] < photo.shape[1]
    kind = PIL.Image.Resampling.BOX if shrinks else PIL.Image.Resampling.BICUBIC
    return PIL.Image.fromarray(photo).resize(size, kind)


def under_map(
    explanation: Explanation,
    size: tuple[int, int],
    *,
    opacity: float = OPACITY,
    grey: bool = True,
) -> PIL.Image.Image:
    """The photo under its map: opaque where the evidence is strongest, transparent where there is none.

    Args:
        explanation: the map and its photo.
        size: (width, height) of the picture.
        opacity: of the strongest evidence.
        grey: on a dimmed grey photo instead of its own colours.
    """
    ground = np.asarray(fitted(explanation.image, size), dtype=np.float32)
    if grey:
        ground = ground.mean(axis=2, keepdims=True) * GREY
    heat = np.asarray(PIL.Image.fromarray(explanation.heatmap).resize(size, PIL.Image.Resampling.BICUBIC)).clip(0, 1)
    heat = (heat / end_of_scale(explanation, heat)).clip(0, 1)
    return PIL.Image.fromarray(blend(ground, coloured(heat), opacity * heat))


def outline(
    picture: PIL.Image.Image, box: Sequence[float], *, scale: float = 1.0, colour: Colour = "white"
) -> PIL.Image.Image:
    """Draw a box (xyxy, times ``scale`` pixels of the picture) onto the picture, with a dark rim on either side."""
    left, top, right, bottom = (side * scale for side in box)
    right, bottom = max(right, left), max(bottom, top)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=3)
    draw.rectangle((left, top, right, bottom), outline=colour)
    return picture


def captioned(picture: PIL.Image.Image, lines: Sequence[str], *, margin: int = 0) -> PIL.Image.Image:
    """The picture under lines of text, with a white margin at its right and below; a line too long is cut."""
    whole = PIL.Image.new("RGB", (picture.width + margin, picture.height + LINE * len(lines) + margin), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(13)
    for number, line in enumerate(lines):
        draw.text((2, number * LINE + 1), _cut(line, picture.width, draw, font), fill="black", font=font)
    whole.paste(picture, (0, LINE * len(lines)))
    return whole


def grid(pictures: Sequence[PIL.Image.Image], columns: int) -> PIL.Image.Image:
    """Pictures from left to right and from top to bottom, in cells of the largest, on white."""
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    columns = min(len(pictures), columns)
    whole = PIL.Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place % columns * width, place // columns * height))
    return whole


def heat_picture(values: npt.NDArray[Any]) -> PIL.Image.Image:
    """Values (H, W) in [0, 1] as colours, one pixel each."""
    return PIL.Image.fromarray(coloured(values).astype(np.uint8))


def data_uri(picture: PIL.Image.Image, kind: str = "WEBP", **settings: Any) -> str:
    """The picture itself, as text that stands where an address would.

    Args:
        picture: the picture.
        kind: its format, such as ``"PNG"`` or ``"WEBP"``.
        settings: of Pillow's writer for that format.
    """
    encoded = io.BytesIO()
    picture.save(encoded, kind, **settings)
    return _uri(encoded.getvalue(), kind)


def figure_uri(figure: Figure) -> str:
    """A figure of matplotlib as PNG, likewise."""
    return _uri(figure_png(figure), "PNG")


def figure_png(figure: Figure) -> bytes:
    """A figure of matplotlib as the content of a PNG file."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind.lower()};base64," + base64.b64encode(content).decode("ascii")


def _cut(line: str, width: int, draw: ImageDraw.ImageDraw, font: Any) -> str:
    shown = line
    while len(shown) > 1 and draw.textlength(shown, font) > width:
        shown = shown[:-2] + "…"
    return shown
