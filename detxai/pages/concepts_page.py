"""The page of a detector: what it looks at, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from detxai.pages.html import render
from detxai.pages.plots import curves


@dataclass(frozen=True)
class ConceptRow:
    """A concept of a class: effect with its interval, prevalence in [0, 1], mass on the evidence, patches."""

    number: int
    effect: str
    prevalence: float
    evidence: str
    patches: Sequence[str]


@dataclass(frozen=True)
class BoxFigure:
    """A crop around a box, as a data URI, and its caption."""

    picture: str
    caption: str


@dataclass(frozen=True)
class ClassSection:
    """A class: boxes and images, the share of the score lost without the surroundings, concepts, and boxes.

    ``kept_channels``: ``channels``, ``n_channels``, ``score`` and ``clean_score`` of a box; None: unknown.
    """

    name: str
    n_boxes: int
    n_images: int
    context: str
    concepts: Sequence[ConceptRow]
    typical: Sequence[BoxFigure]
    odd: Sequence[BoxFigure]
    kept_channels: Mapping[str, Any] | None


@dataclass(frozen=True)
class ConceptsReport:
    """What the page shows.

    Attributes:
        model: its name.
        n_boxes, n_images: measured.
        removal: how concepts were removed.
        mixtures: ``levels``, ``n_concepts``, ``bound``, ``explained``, ``n_cells`` and ``stability`` of each.
        sections: the classes.
        concepts: numbers of the two concepts of each class with the largest effects.
        matrix: classes x ``concepts``: mean effects.
        removal_matrix: classes x classes: the effect, on each column's class, of removing the row's top concept.
    """

    model: str
    n_boxes: int
    n_images: int
    removal: str
    mixtures: Sequence[Mapping[str, Any]]
    sections: Sequence[ClassSection]
    concepts: Sequence[int]
    matrix: Sequence[Sequence[float]]
    removal_matrix: Sequence[Sequence[float]]


def concepts_page(report: ConceptsReport) -> str:
    """The whole document; it runs no script, and every text is escaped."""
    return render("concepts.html", report=report, bounds=_bounds(report.mixtures), shade=_shade)


def _bounds(mixtures: Sequence[Mapping[str, Any]]) -> Markup:
    """What share of its whole rise each bound has made, over the iterations."""
    names = [", ".join(mixture["levels"]) for mixture in mixtures]
    fractions = np.linspace(0, 1, 60)
    lines = {}
    for name, mixture in zip(names, mixtures, strict=True):
        bound = np.asarray(mixture["bound"], dtype=np.float64)
        rise = bound[-1] - bound[0]
        share = (bound - bound[0]) / rise if rise > 0 else np.ones_like(bound)
        lines[name] = np.interp(fractions, np.linspace(0, 1, len(bound)), share)
    places = {name: place for place, name in enumerate(names)}
    return curves("Evidence lower bound", fractions, lines, "share of the iterations", places)


def _shade(effect: float) -> str:
    """The background of a cell: the larger the effect, the stronger."""
    return f"background: color-mix(in srgb, var(--bar) {min(max(effect, 0.0), 1.0) * 70:.0f}%, transparent)"
