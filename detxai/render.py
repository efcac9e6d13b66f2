"""Overlays for the eye: the only place that normalises, colours or draws a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from detxai.detections import Detections
from detxai.explanation import Explanation, replacing

Mode = Literal["evidence", "signed"]
FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
DPI = 100
# inferno is perceptually uniform and survives grey print; coolwarm is even on both sides of its neutral zero
COLOURS: dict[Mode, str] = {"evidence": "inferno", "signed": "coolwarm"}
BAR_LABELS: dict[Mode, str] = {
    "evidence": "evidence, as a share of its peak",
    "signed": "against  -  evidence  -  for, as a share of its peak",
}


def save_overlay(explanation: Explanation, path: str | PathLike[str], **style: Any) -> Path:
    """Write ``overlay(explanation, **style)`` to an image file; see ``Explanation.save``."""
    return _save(overlay(explanation, **style), path)


def save_sheet(explanations: Sequence[Explanation], path: str | PathLike[str], **style: Any) -> Path:
    """Write ``sheet(explanations, **style)`` to an image file."""
    return _save(sheet(explanations, **style), path)


def overlay(
    explanation: Explanation,
    *,
    mode: Mode = "evidence",
    colours: str | None = None,
    opacity: float = 0.8,
    boxes: Detections | None = None,
    caption: str | None = None,
    width: int | None = None,
) -> Figure:
    """The photo under its map, with box, caption and colour bar.

    Args:
        explanation: what to draw.
        mode: ``"evidence"`` draws the heatmap, transparent where there is none; ``"signed"`` also what speaks
            against the box, with zero transparent.
        colours: a matplotlib colour map; default: a perceptually uniform one.
        opacity: of the strongest evidence, in (0, 1].
        boxes: further boxes to outline thinly, such as all detections of the image.
        caption: default: class, score and method.
        width: of the photo in output pixels; default: its own, but at least 640 and at most 1600.

    Raises:
        ValueError: an unknown mode or colour map, or an opacity or width out of range.
    """
    figure, (axes,) = _panels(1, 1, explanation.image.shape, width)
    shown = _draw(axes, explanation, mode, _colour_map(mode, colours), _checked(opacity), boxes)
    axes.set_title(explanation.caption if caption is None else caption, loc="left", fontsize=13, pad=8)
    bar = figure.colorbar(shown, ax=axes, fraction=0.035, pad=0.015, aspect=30)
    bar.set_label(BAR_LABELS[mode], fontsize=10)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def sheet(
    explanations: Sequence[Explanation],
    *,
    columns: int | None = None,
    mode: Mode = "evidence",
    colours: str | None = None,
    opacity: float = 0.8,
    captions: Sequence[str] | None = None,
    width: int | None = None,
) -> Figure:
    """Several explanations side by side, the photo itself first.

    Args:
        explanations: at least one; of one image or several.
        columns: panels in a row; default: up to four.
        mode, colours, opacity: as for ``overlay``.
        captions: one for each explanation.
        width: of one panel in output pixels; default: at most 520.
    """
    if not explanations:
        raise ValueError("explanations must not be empty")
    n = len(explanations) + 1
    columns = columns or min(n, 4)
    rows = math.ceil(n / columns)
    first = explanations[0]
    figure, panels = _panels(rows, columns, first.image.shape, width or min(first.image.shape[1], 520))
    panels[0].imshow(first.image)
    panels[0].set_title("photo", loc="left", fontsize=11)
    colour_map = _colour_map(mode, colours)
    for i, (axes, explanation) in enumerate(zip(panels[1:], explanations)):
        _draw(axes, explanation, mode, colour_map, _checked(opacity), None)
        axes.set_title(captions[i] if captions else explanation.caption, loc="left", fontsize=11)
    for axes in panels[n:]:
        axes.set_visible(False)
    return figure


def _panels(rows: int, columns: int, shape: tuple[int, ...], width: int | None) -> tuple[Figure, list[Axes]]:
    if width is not None and width < 16:
        raise ValueError(f"width must be at least 16 pixels, got {width}")
    panel = width or min(max(shape[1], 640), 1600)
    height = panel * min(max(shape[0] / shape[1], 0.1), 6)
    figure = Figure(figsize=((panel * columns + 110) / DPI, (height * rows + 40 * rows) / DPI), dpi=DPI)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(grid.flat)
    for axes in panels:
        axes.set_axis_off()
    return figure, panels


def _draw(
    axes: Axes, explanation: Explanation, mode: Mode, colour_map: Colormap, opacity: float, boxes: Detections | None
) -> ScalarMappable:
    height, width = explanation.values.shape
    extent = (0, width, height, 0)  # continuous coordinates: a box edge at x lies at x, not half a pixel off
    scale = Normalize(-1 if mode == "signed" else 0, 1)
    shown = explanation.heatmap if mode == "evidence" else _signed(explanation.values)
    axes.imshow(explanation.image, extent=extent)
    heat = colour_map(scale(shown))
    heat[..., 3] = opacity * np.abs(shown)
    axes.imshow(heat, extent=extent)
    if boxes is not None:
        for box in boxes.boxes.tolist():
            _outline(axes, box, 1.0)
    if explanation.detection is not None:
        _outline(axes, explanation.detection.boxes[0].tolist(), 2.2)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return ScalarMappable(scale, colour_map)


def _outline(axes: Axes, box: Sequence[float], thickness: float) -> None:
    x1, y1, x2, y2 = box
    edge = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=thickness)
    # a dark rim keeps the white line visible on white ground
    edge.set_path_effects([Stroke(linewidth=thickness + 1.6, foreground="black"), Normal()])
    axes.add_patch(edge)


def _signed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    peak = float(np.abs(values).max())
    return values / peak if peak > 0 else values


def _colour_map(mode: Mode, colours: str | None) -> Colormap:
    if mode not in COLOURS:
        raise ValueError(f"mode must be one of {list(COLOURS)}, got {mode!r}")
    name = colours or COLOURS[mode]
    if name not in colormaps:
        raise ValueError(f"colours must be a matplotlib colour map, got {name!r}")
    return colormaps[name]


def _checked(opacity: float) -> float:
    if not 0 < opacity <= 1:
        raise ValueError(f"opacity must lie in (0, 1], got {opacity}")
    return opacity


def _save(figure: Figure, path: str | PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"path must end in one of {', '.join(FORMATS)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: no such folder: {path.parent}")
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path
