"""Curves and box plots as SVG that stands inside a page: no file beside it, and the page's own colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

Floats = npt.NDArray[np.float64]

# Okabe & Ito's colours, which stay apart for every kind of colour vision; then the same again, dashed
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#7F7F7F")
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 4), (2, 3))
# what the style sheet colours, for a light and a dark screen; black text it colours anyway
LINE, SOFT, INK = "#d8dce2", "#5c6470", "#1c1e21"
OF_PAGE = {LINE: "var(--line)", SOFT: "var(--soft)", INK: "var(--ink)"}
WIDTH, HEIGHT = 460, 300  # points, which are the units of the SVG
ROW, LABELS = 26, 150  # of a box plot: points of one box, and of the names beside them
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "detxai",  # the same bytes each time
    "font.family": "DejaVu Sans",  # matplotlib's own; the style sheet names the page's
    "font.size": 11,
    "path.simplify": False,
}


def plot_style() -> AbstractContextManager[None]:
    """Inside, plots look the same whatever style the user, or a library, has chosen for matplotlib."""
    context: AbstractContextManager[None] = matplotlib.style.context(["default", SETTINGS])
    return context


def colour(place: int) -> str:
    """The colour of the method at ``place``."""
    return COLOURS[place % len(COLOURS)]


def dashes(place: int) -> tuple[float, ...]:
    """Lengths of its dashes and gaps; empty: a whole line."""
    return DASHES[place // len(COLOURS) % len(DASHES)]


def curves(
    title: str, fractions: Floats, lines: Mapping[str, Floats], across: str, places: Mapping[str, int]
) -> Markup:
    """Mean curves, one a method.

    Args:
        title: above them.
        fractions: (n,) in [0, 1].
        lines: method -> (n,) values from 0.
        across: what the horizontal axis is.
        places: method -> its place, for colour and dashes.
    """
    with plot_style():
        figure, axes = _axes(HEIGHT, left=44, bottom=44, top=30)
        for number, (method, line) in enumerate(lines.items()):
            (drawn,) = axes.plot(fractions, line, color=colour(places[method]), linewidth=1.8, clip_on=False)
            drawn.set_gid(f"curve-{number}")
            if dashes(places[method]):
                drawn.set_dashes(dashes(places[method]))
        axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", parse_math=False)
        axes.set_xlabel(across, parse_math=False)
        top = _rounded_up(max((float(np.max(line)) for line in lines.values()), default=1.0))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, top)
        shares = np.array([0, 0.25, 0.5, 0.75, 1])
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
        axes.set_yticks(shares * top, [f"{share:.2g}" for share in shares * top])
        axes.grid(axis="y", color=LINE, linewidth=0.8, clip_on=False)
        return _svg(figure, title)


def box_plots(values: Mapping[str, Floats], places: Mapping[str, int], chance: float = np.nan) -> Markup:
    """A box for each method: quartiles, the median as a line, the mean as a dot, whiskers from 5 to 95 %.

    Args:
        values: method -> (D,), NaN left out.
        places: method -> its place, for the colour.
        chance: a vertical line, unless NaN.
    """
    known = {method: of_method[~np.isnan(of_method)] for method, of_method in values.items()}
    low, high = _range(known, chance)
    with plot_style():
        figure, axes = _axes(ROW * len(known) + 32, left=LABELS, bottom=26, top=6)
        for row, (method, numbers) in enumerate(known.items()):
            if len(numbers):
                _box(axes, numbers, row, colour(places[method]))
        if not np.isnan(chance):
            axes.axvline(chance, color=SOFT, linewidth=1.4, linestyle=(0, (4, 3)), clip_on=False)
        axes.set_xlim(low, high)
        axes.set_ylim(len(known) - 0.5, -0.5)
        ticks = np.linspace(low, high, 5)
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.set_yticks(range(len(known)), list(known), parse_math=False)
        axes.grid(axis="x", color=LINE, linewidth=0.8, clip_on=False)
        return _svg(figure, "box plots")


def _box(axes: Axes, numbers: Floats, row: int, fill: str) -> None:
    from_5, q1, median, q3, to_95 = np.quantile(numbers, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    top, bottom = row - 0.28, row + 0.28
    line: dict[str, Any] = {"color": fill, "clip_on": False}
    axes.plot([from_5, to_95], [row, row], linewidth=1.4, **line)
    box = Rectangle((q1, top), q3 - q1, bottom - top, facecolor=to_rgba(fill, 0.35), edgecolor=fill, clip_on=False)
    axes.add_patch(box)
    axes.plot([median, median], [top, bottom], linewidth=2.4, **line)
    axes.plot([numbers.mean()], [row], "o", markersize=5, color=INK, clip_on=False)


def _axes(height: float, *, left: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """Bare axes in a figure of this height; all in points."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    box = left / WIDTH, bottom / height, (WIDTH - left - 16) / WIDTH, (height - bottom - top) / height
    axes = figure.add_axes(box)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an element of a page.

    What a page has anyway is left out: declarations with addresses, the ground, sizes in points.
    """
    figure.patch.set_visible(False)
    figure.axes[0].patch.set_visible(False)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = written.getvalue()
    (view,) = re.findall(r'viewBox="[^"]*"', text)
    inside = text[text.index("</defs>") + len("</defs>") :]  # behind a style for all elements of the page
    for plain, of_page in OF_PAGE.items():
        inside = inside.replace(plain, of_page)
    return Markup('<svg {} role="img" aria-label="{}">').format(Markup(view), label) + Markup(inside)


def _range(known: Mapping[str, Floats], chance: float) -> tuple[float, float]:
    together = np.concatenate([*known.values(), [] if np.isnan(chance) else [chance]])
    if not len(together):
        return 0.0, 1.0
    # some quantities have no end: an outlier must not squeeze the boxes to nothing
    low, high = np.quantile(together, [0.01, 0.99]).tolist()
    low, high = min(low, chance) if chance == chance else low, max(high, chance) if chance == chance else high
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _rounded_up(top: float) -> float:
    """The next of 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, ... above a value: quarters of them are short numbers."""
    steps = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    return next((step for step in steps if step >= top), float(np.ceil(top)))


def legend_entries(methods: Sequence[str]) -> list[tuple[str, str, str]]:
    """Name, colour and dashes (as SVG writes them) of each method, by its place among them."""
    return [(name, colour(place), " ".join(map(str, dashes(place)))) for place, name in enumerate(methods)]
