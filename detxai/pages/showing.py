"""Overlays on the screen: below the cell of a notebook, elsewhere in the system's picture viewer."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import PIL.Image

from detxai.explanation import Explanation
from detxai.pages.overlays import overlay, sheet
from detxai.pages.pictures import figure_png


@dataclass(frozen=True)
class Png:
    """A picture as a notebook shows it."""

    content: bytes = field(repr=False)  # a notebook keeps the repr of what it shows: it would hold the picture twice

    def _repr_png_(self) -> bytes:
        return self.content


def overlay_png(explanation: Explanation, **style: Any) -> bytes:
    """``overlay(explanation, **style)`` as a PNG file's content."""
    return figure_png(overlay(explanation, **style))


def show(explanations: Explanation | Sequence[Explanation], **style: Any) -> None:
    """Show overlays: below the cell of a notebook, elsewhere in the system's picture viewer.

    Args:
        explanations: one; or several, side by side beside the photo.
        style: settings of ``detxai.pages.overlays.overlay``, for several those of ``sheet``, such as ``columns``.

    Raises:
        TypeError: ``explanations`` are none.
        ValueError: there are none, or a setting is wrong.
    """
    if isinstance(explanations, Explanation):
        picture = overlay_png(explanations, **style)
    else:
        for one in explanations:
            if not isinstance(one, Explanation):
                raise TypeError(f"explanations must be Explanation objects, got {type(one).__name__}")
        picture = figure_png(sheet(explanations, **style))
    if _in_a_notebook():
        from IPython.display import display

        display(Png(picture))
    else:
        PIL.Image.open(io.BytesIO(picture)).show("detxai")


def _in_a_notebook() -> bool:
    """Whether a Jupyter kernel runs this; a terminal's IPython has a shell too, but nowhere to put a picture."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
