"""What Streamlit has no widget for: boxes to click, and a picture to paint on. Local scripts, no further package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import streamlit as st

from detxai.detections import Detections
from detxai.pages.pictures import data_uri, fitted

FRONTEND = Path(__file__).with_name("frontend")
WIDEST = 1200  # pixels of a picture as it is sent to the browser
QUALITY = 90
BOXES = '<div class="boxes"></div>'
PAINT = """<div class="paint"><img><canvas role="img" aria-label="paint here with mouse, pen or finger"></canvas></div>
<div class="tools"><button type="button" class="undo">Undo</button>
<button type="button" class="clear">Clear</button></div>"""


@cache
def _text(name: str) -> str:
    return (FRONTEND / name).read_text(encoding="utf-8")


_boxes = st.components.v2.component("detxai_boxes", html=BOXES, css=_text("boxes.css"), js=_text("boxes.js"))
_paint = st.components.v2.component("detxai_paint", html=PAINT, css=_text("paint.css"), js=_text("paint.js"))


def clickable_boxes(
    image: npt.NDArray[np.uint8],
    detections: Detections,
    places: Sequence[int],
    selected: int | None,
    on_action: Callable[[str, int], None],
) -> None:
    """The picture with its boxes as buttons.

    Args:
        image: (H, W, 3).
        detections: all of them.
        places: those shown.
        selected: one of them; None: none.
        on_action: called with ``("box", place)``, ``("image", step)`` or ``("method", number)``, as clicks and keys
            ask for.
    """
    height, width = image.shape[:2]
    boxes = [{"index": i, "box": detections.boxes[i].tolist(), "label": box_label(detections, i)} for i in places]

    def act() -> None:
        action = st.session_state["boxes"].get("action")
        if isinstance(action, dict) and isinstance(action.get("value"), int):
            on_action(str(action.get("kind")), action["value"])

    _boxes(
        key="boxes",
        data={
            "picture": sendable(image),
            "width": width,
            "height": height,
            "boxes": boxes,
            "selected": selected,
            "alt": f"the picture, with {len(boxes)} detections as buttons",
        },
        on_action_change=act,
    )


def paintable(picture: PIL.Image.Image, size: tuple[int, int], radius: float, key: str, alt: str) -> Any:
    """A picture to paint on; the strokes so far, as ``detxai.app.painting.paint_mask`` takes them.

    Args:
        picture: as it is shown.
        size: (height, width) of the image that strokes are measured in.
        radius: of the brush, in its pixels.
        key: of the picture: with another one the strokes go.
        alt: what it shows.
    """
    uri = data_uri(picture, "JPEG", quality=QUALITY)
    data = {"picture": uri, "height": size[0], "width": size[1], "radius": radius, "key": key, "alt": alt}
    state = _paint(key=f"paint-{key}", data=data, default={"strokes": []}, on_strokes_change=lambda: None)
    return state.strokes or []


def box_label(detections: Detections, place: int) -> str:
    """What a box is called: ``3: person 0.90``, counted from 0 as in the tables of the command line."""
    return f"{place}: {detections.name(place)} {float(detections.scores[place]):.2f}"


def sendable(image: npt.NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as a data URI, no wider than a screen needs."""
    height, width = image.shape[:2]
    scale = min(1.0, WIDEST / width)
    return data_uri(fitted(image, (round(width * scale), max(1, round(height * scale)))), "JPEG", quality=QUALITY)
