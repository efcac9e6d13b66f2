"""Curves and box plots as SVG, so that a page needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from detxai.evaluate.statistics import Floats

# Okabe & Ito's colours, which stay apart for every kind of colour vision; then the same, darker
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#7F7F7F")
DASHES = ("", "7 4", "2 3")
WIDTH, HEIGHT, MARGIN = 460, 300, 44
ROW, LABEL = 26, 170


def colour(place: int) -> str:
    """The colour of the method at ``place``."""
    return COLOURS[place % len(COLOURS)]


def curves(title: str, fractions: Floats, lines: Mapping[str, Floats], across: str, places: Mapping[str, int]) -> str:
    """Mean curves, one a method.

    Args:
        title: above them.
        fractions: (n,) in [0, 1].
        lines: method -> (n,) values from 0.
        across: what the horizontal axis is.
        places: method -> its place, for the colour.
    """
    top = _rounded(max((float(np.max(line)) for line in lines.values()), default=1.0))
    inner_width, inner_height = WIDTH - MARGIN - 12, HEIGHT - 2 * MARGIN

    def point(x: float, y: float) -> str:
        return f"{MARGIN + x * inner_width:.1f},{MARGIN + (1 - y / top) * inner_height:.1f}"

    drawn = []
    for method, line in lines.items():
        dash = DASHES[places[method] // len(COLOURS) % len(DASHES)]
        points = " ".join(point(float(x), float(y)) for x, y in zip(fractions, line, strict=True))
        drawn.append(
            f'<polyline points="{points}" fill="none" stroke="{colour(places[method])}" stroke-width="2" '
            f'stroke-dasharray="{dash}"><title>{escape(method)}</title></polyline>'
        )
    ticks = "".join(
        f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{share * top:.2g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
        for y in [MARGIN + (1 - share) * inner_height]
    )
    shares = "".join(
        f'<text x="{MARGIN + share * inner_width:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{share:g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f'<text class="title" x="{MARGIN}" y="20">{escape(title)}</text>{ticks}{shares}'
        f'<text x="{MARGIN + inner_width / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>'
        f"{''.join(drawn)}</svg>"
    )


def legend(methods: Sequence[str], places: Mapping[str, int]) -> str:
    """Which line is whose."""
    entries = []
    for method in methods:
        dash = DASHES[places[method] // len(COLOURS) % len(DASHES)]
        swatch = (
            f'<svg class="swatch" viewBox="0 0 28 8"><line x1="0" x2="28" y1="4" y2="4" stroke-width="3" '
            f'stroke="{colour(places[method])}" stroke-dasharray="{dash}"/></svg>'
        )
        entries.append(f"<span>{swatch}{escape(method)}</span>")
    return f'<p class="legend">{"".join(entries)}</p>'


def box_plots(values: Mapping[str, Floats], places: Mapping[str, int], chance: float = np.nan) -> str:
    """A box for each method: quartiles, the median as a line, the mean as a dot, whiskers from 5 to 95 %.

    Args:
        values: method -> (D,), NaN left out.
        places: method -> its place, for the colour.
        chance: a vertical line, unless NaN.
    """
    known = {method: of[~np.isnan(of)] for method, of in values.items()}
    low, high = _range(known, chance)
    height = ROW * len(known) + 34
    inner = WIDTH - LABEL - 16

    def x(value: float) -> float:
        return LABEL + (value - low) / (high - low) * inner

    rows = [
        _box(x, method, of, 8 + ROW * row, colour(places[method])) for row, (method, of) in enumerate(known.items())
    ]
    ticks = "".join(
        f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="4" y2="{height - 26}"/>'
        f'<text x="{x(at):.1f}" y="{height - 10}" text-anchor="middle">{at:.3g}</text>'
        for at in np.linspace(low, high, 5).tolist()
    )
    line = ""
    if not np.isnan(chance):
        line = (
            f'<line class="chance" x1="{x(chance):.1f}" x2="{x(chance):.1f}" y1="4" y2="{height - 26}">'
            f"<title>chance: {chance:.3f}</title></line>"
        )
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="box plots">{ticks}{"".join(rows)}{line}</svg>'


def _box(x: Callable[[float], float], method: str, of: Floats, top: int, fill: str) -> str:
    name = f'<text x="{LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(method)}</text>'
    if not len(of):
        return name
    w0, q1, q2, q3, w1 = (x(value) for value in np.quantile(of, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist())
    middle = top + 9
    return (
        f'{name}<line x1="{w0:.1f}" x2="{w1:.1f}" y1="{middle}" y2="{middle}" stroke="{fill}" stroke-width="1.5"/>'
        f'<rect x="{q1:.1f}" y="{top + 2}" width="{max(q3 - q1, 1):.1f}" height="14" fill="{fill}" fill-opacity="0.35" '
        f'stroke="{fill}"/><line x1="{q2:.1f}" x2="{q2:.1f}" y1="{top + 2}" y2="{top + 16}" stroke="{fill}" '
        f'stroke-width="2.5"/><circle cx="{x(float(of.mean())):.1f}" cy="{middle}" r="3" class="mean"/>'
    )


def _range(known: Mapping[str, Floats], chance: float) -> tuple[float, float]:
    together = np.concatenate([*known.values(), [] if np.isnan(chance) else [chance]])
    if not len(together):
        return 0.0, 1.0
    # some quantities have no end: an outlier must not squeeze the boxes to nothing
    low, high = np.quantile(together, [0.01, 0.99]).tolist()
    low, high = min(low, chance) if chance == chance else low, max(high, chance) if chance == chance else high
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _rounded(top: float) -> float:
    """The next of 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, ... above a value: quarters of them are short numbers."""
    steps = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    return next((step for step in steps if step >= top), float(np.ceil(top)))
