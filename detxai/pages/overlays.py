"""Overlays as figures of matplotlib: one explanation with its colour bar, or several on a sheet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.pages.colours import Mode, bar_label, blend, colour_map, default_mode, end_of_scale, signed
from detxai.pages.layout import Layout
from detxai.runs.files import replacing

FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
# the smallest sets of cells, by their names in ``details``: how they are outlined, and what that means
SETS = {
    "sufficient": ("#35d07f", "solid", "enough to keep the box"),
    "necessary": ("#ff5a5f", "dashed", "lost without"),
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
    mode: Mode | None = None,
    colours: str | None = None,
    opacity: float = 0.8,
    boxes: Detections | None = None,
    caption: str | None = None,
    width: int | None = None,
    sets: bool | None = None,
) -> Figure:
    """The photo under its map, with box, caption and colour bar.

    Args:
        explanation: what to draw.
        mode: ``"evidence"`` draws the heatmap, transparent where there is none; ``"signed"`` also what speaks
            against the box, in the colours of a scale that is centred at zero, with zero transparent; default:
            ``"signed"`` for the methods whose maps say as much by what is below zero (``is_signed``), else
            ``"evidence"``.
        colours: a matplotlib colour map; default: a perceptually uniform one, for ``"signed"`` a diverging one. Its
            scale ends at the peak; for maps of single pixels (``of_single_pixels``) below the strongest of them, which
            hold a twentieth of the evidence: the bar says where.
        opacity: of the strongest evidence, in (0, 1].
        boxes: further boxes to outline thinly, such as all detections of the image.
        caption: default: class, score and method.
        width: of the photo in output pixels; default: its own, but at least 640 and at most 1600 (also in height).
        sets: outline the smallest set of cells that keeps the box, and the smallest whose loss loses it; default:
            where the explanation has them (``PixelEvidence(decisive=True)``).

    Raises:
        ValueError: an unknown mode or colour map, an opacity or width out of range, or sets that are not there.
    """
    has_sets = SETS.keys() <= explanation.details.keys()
    if sets and not has_sets:
        raise ValueError(f"sets must be among the explanation's details, got {list(explanation.details)}")
    mode = mode or default_mode(explanation)
    colours_of_map, opacity = colour_map(mode, colours), _checked(opacity)
    layout = Layout.for_photo(explanation.image.shape, width, least=640, most=1600)
    figure, (axes,), bar_axes = layout.figure(1, 1, bar=True)
    shown = _draw(axes, explanation, layout.panel, mode, colours_of_map, opacity, boxes)
    if has_sets and sets is not False:
        _outline_sets(axes, {name: explanation.details[name]["cells"] for name in SETS})
    _caption(axes, explanation.caption if caption is None else caption, 13)
    bar = figure.colorbar(shown, cax=bar_axes, orientation="horizontal" if layout.bar_below else "vertical")
    bar.set_label(bar_label(explanation, mode), fontsize=10)
    bar.outline.set_visible(False)
    return figure


def sheet(
    explanations: Sequence[Explanation],
    *,
    columns: int | None = None,
    mode: Mode | None = None,
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
        width: of one panel in output pixels; default: the first photo's own, but from 240 to 520.
    """
    if not explanations:
        raise ValueError("explanations must not be empty")
    modes = [mode or default_mode(explanation) for explanation in explanations]
    colour_maps, opacity = [colour_map(each, colours) for each in modes], _checked(opacity)
    n = len(explanations) + 1
    columns = columns or min(n, 4)
    first = explanations[0]
    layout = Layout.for_photo(first.image.shape, width, least=240, most=520)
    figure, panels, _ = layout.figure(math.ceil(n / columns), columns, bar=False)
    _show(panels[0], _fitted(first.image, layout.panel), first.image.shape)
    _caption(panels[0], "photo", 11)
    for i, (axes, explanation) in enumerate(zip(panels[1:], explanations)):
        _draw(axes, explanation, layout.panel, modes[i], colour_maps[i], opacity)
        _caption(axes, captions[i] if captions else explanation.caption, 11)
    return figure


def _caption(axes: Axes, text: str, size: int) -> None:
    axes.set_title(text, loc="left", fontsize=size, pad=8, parse_math=False)  # a class may be called "$5 note"


def _draw(
    axes: Axes,
    explanation: Explanation,
    panel: tuple[int, int],
    mode: Mode,
    colours: Colormap,
    opacity: float,
    boxes: Detections | None = None,
) -> ScalarMappable:
    shown = _fitted(explanation.heatmap if mode == "evidence" else signed(explanation.values), panel)
    end = end_of_scale(explanation, shown)
    scale = Normalize(-end if mode == "signed" else 0, end, clip=True)
    heat = np.asarray(colours(scale(shown)), dtype=np.float32)[..., :3] * 255
    photo = _fitted(explanation.image, panel)
    _show(axes, blend(photo, heat, opacity * np.minimum(np.abs(shown) / end, 1)), explanation.image.shape)
    if boxes is not None:
        for box in boxes.boxes.tolist():
            _outline(axes, box, 1.0)
    if explanation.detection is not None:
        _outline(axes, explanation.detection.boxes[0].tolist(), 2.2)
    return ScalarMappable(scale, colours)


def _show(axes: Axes, picture: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    height, width = shape[:2]
    # continuous coordinates: a box edge at x lies at x, not half a pixel off
    axes.imshow(picture, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _fitted(array: npt.NDArray[Any], panel: tuple[int, int]) -> npt.NDArray[Any]:
    """The array at most as large as the panel: averaged down where it is larger, untouched where it is not."""
    height, width = min(array.shape[0], panel[0]), min(array.shape[1], panel[1])
    if (height, width) == array.shape[:2]:
        return array
    return np.asarray(PIL.Image.fromarray(array).resize((width, height), PIL.Image.Resampling.BOX))


def _outline(axes: Axes, box: Sequence[float], thickness: float) -> None:
    x1, y1, x2, y2 = box
    edge = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=thickness)
    # a dark rim keeps the white line visible on white ground
    edge.set_path_effects([Stroke(linewidth=thickness + 1.6, foreground="black"), Normal()])
    axes.add_patch(edge)


def _outline_sets(axes: Axes, sets: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Outline unions of cells (xyxy, of one grid): an edge that two of them share is inside."""
    handles = []
    for name, cells in sets.items():
        colour, style, meaning = SETS[name]
        edges = Counter(edge for cell in cells for edge in _edges(cell))
        outline = [edge for edge, n in edges.items() if n == 1]
        # whole black lines below: a rim of the dashes themselves would hide their colour
        axes.add_collection(LineCollection(outline, colors="black", linewidths=3.4), autolim=False)
        axes.add_collection(LineCollection(outline, colors=colour, linestyles=style, linewidths=1.8), autolim=False)
        handles.append(Line2D([], [], color=colour, linestyle=style, label=meaning))
    axes.legend(handles=handles, loc="lower right", fontsize=9, framealpha=0.8)


def _edges(cell: Sequence[float]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    x1, y1, x2, y2 = cell
    return [((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)), ((x2, y1), (x2, y2))]


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
