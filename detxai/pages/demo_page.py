"""The page of ``detxai demo``: scenes whose evidence is known, and what each method's map says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detxai.pages.html import render


@dataclass(frozen=True)
class Panel:
    """A picture (a data URI) with its caption; ``hit``: whether the peak of a map lies on the evidence."""

    title: str
    picture: str
    note: str = ""
    hit: bool | None = None


@dataclass(frozen=True)
class Story:
    """What one detector says of a scene, and the maps of it."""

    detector: str
    said: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Section:
    """One scene: what it shows, what a good map shows of it, its pictures, and a story for each detector."""

    headline: str
    description: str
    lesson: str
    panels: Sequence[Panel]
    stories: Sequence[Story]


@dataclass(frozen=True)
class Total:
    """How the maps of one method did: ``n`` of them, ``hits`` with their peak on the evidence, mean shares of heat."""

    method: str
    detector: str
    n: int
    hits: int
    heat: float
    chance: float


@dataclass(frozen=True)
class DemoPage:
    """What the page shows.

    Attributes:
        sections: one for each scene.
        methods: name -> note, in the order of the panels.
        totals: how the methods did, shown above the scenes.
        missing: why a detector is not shown.
        left_out: what a detector is not shown with, for the sake of time.
        seconds: what it took to make.
    """

    sections: Sequence[Section]
    methods: Mapping[str, str]
    totals: Sequence[Total]
    missing: Sequence[str]
    left_out: Sequence[str]
    seconds: float


def demo_page(page: DemoPage) -> str:
    """The whole document."""
    return render("demo.html", page=page)
