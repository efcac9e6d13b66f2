"""The page of an evaluation: rankings, curves, strata, and the maps that differ most from method to method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from detxai.pages.html import render
from detxai.pages.plots import colour, legend_entries

ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Figure:
    """A number in a table; ``best`` of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class TotalRow:
    """How a method does overall: mean ranks (over all measures, then by group), seconds, and means."""

    method: str
    ranks: Sequence[str]
    seconds: float
    means: Sequence[Figure]


@dataclass(frozen=True)
class RankingRow:
    """A method at one quantity: its mean, and how far it is behind the best (empty for the best)."""

    method: str
    mean: str
    behind: str


@dataclass(frozen=True)
class RankingSection:
    """All methods at one quantity, the best first.

    Attributes:
        name, meaning: of the quantity.
        better: ``"higher"`` or ``"lower"``.
        n: detections that every method has a value for.
        chance: what a map of random numbers gets; empty where nobody says.
        plot: the box plots.
    """

    name: str
    meaning: str
    better: str
    n: int
    chance: str
    rows: Sequence[RankingRow]
    plot: Markup


@dataclass(frozen=True)
class StratumTable:
    """Means of one quantity by stratum: ``strata`` with their numbers of detections, and a row for each method."""

    quantity: str
    better: str
    strata: Sequence[tuple[str, int]]
    rows: Sequence[tuple[str, Sequence[Figure]]]


@dataclass(frozen=True)
class DisagreementFigure:
    """The maps of one detection under every method, as a data URI, and their mean rank correlation."""

    title: str
    agreement: float
    picture: str


@dataclass(frozen=True)
class EvaluationReport:
    """What the page shows.

    Attributes:
        n_detections, n_images: measured; ``n_dropped``: detections that a method failed on.
        level, fewest_images: when a difference is marked.
        methods: in the order of their colours.
        groups: of measures, with what each asks.
        headlines: quantities whose means stand beside the ranks, and which of higher and lower is better.
        totals, rankings, figures: the rows and pictures of each section.
        curves: mean insertion and deletion curves; none where they were not measured.
        strata: what the detections are grouped by -> a table for each quantity.
        failures: image, method (None: all of them) and error.
        request: what was requested, as text.
    """

    n_detections: int
    n_images: int
    n_dropped: int
    level: float
    fewest_images: int
    methods: Sequence[str]
    groups: Mapping[str, str]
    headlines: Sequence[tuple[str, str]]
    totals: Sequence[TotalRow]
    rankings: Sequence[RankingSection]
    curves: Sequence[Markup]
    strata: Mapping[str, Sequence[StratumTable]]
    figures: Sequence[DisagreementFigure]
    failures: Sequence[Mapping[str, str | None]]
    request: str


def evaluation_page(report: EvaluationReport) -> str:
    """The whole document; it runs no script, and every text is escaped."""
    colours = {method: colour(place) for place, method in enumerate(report.methods)}
    legend = legend_entries(report.methods)
    return render("evaluation.html", report=report, colours=colours, legend=legend, arrows=ARROWS)
