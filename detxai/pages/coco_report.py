"""The page of a COCO run: AP, kinds of mistakes, where the maps lie, and the worst boxes of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detxai.pages.html import render


class OutsideShare(Protocol):
    """Of ``n`` boxes: the mean share of the evidence outside the box, and that of a flat map."""

    n: int
    outside: float
    chance: float


@dataclass(frozen=True)
class KindRow:
    """How many boxes there are of one kind.

    Attributes:
        kind, meaning: its name, and what it means.
        n: boxes of this kind; ``n_explained``: of which have a map; ``n_empty``: and no positive value in it.
        in_gallery: whether the gallery shows any of them.
        delta_ap: rise of mean AP were all of this kind corrected; None where that is not known or no mistake.
    """

    kind: str
    meaning: str
    n: int
    n_explained: int
    n_empty: int
    in_gallery: bool
    delta_ap: float | None = None


@dataclass(frozen=True)
class StageRow:
    """How many of the explained misses were lost at one stage of the detector.

    Attributes:
        stage, meaning: its name, and what it means.
        n: misses.
        score, iou: the mean score and IoU of the candidates that came nearest.
    """

    stage: str
    meaning: str
    n: int
    score: float
    iou: float


@dataclass(frozen=True)
class MatrixCell:
    """How many annotations of one class were predicted as another; ``""``: nothing annotated, nothing predicted."""

    annotated: str
    predicted: str
    n: int
    in_gallery: bool


@dataclass(frozen=True)
class MatrixTable:
    """The confusion matrix: a row for each annotated class, a column for each predicted one.

    Attributes:
        classes: of rows and columns; the last is ``""``.
        rows: of cells; the last row is one shorter.
        n_left_out: classes with fewer mistakes than those shown.
    """

    classes: Sequence[str]
    rows: Sequence[Sequence[MatrixCell]]
    n_left_out: int


@dataclass(frozen=True)
class AverageMap:
    """The mean map around the ``n`` boxes of a kind and class (``""``: every class), as a data URI."""

    kind: str
    category: str
    n: int
    picture: str


@dataclass(frozen=True)
class BoxCard:
    """One box of the gallery.

    Attributes:
        kind, category: of the box.
        score: the prediction's; None for a missed annotation.
        ap_loss: how much AP it costs; None for a box that costs none.
        outside: the share of the evidence outside the box; None for an empty map.
        story: what happened to it, in a sentence.
        photo, under_map: the picture plain and under the map, as data URIs.
        annotated, predicted: the cell of the confusion matrix that it counts in; None where it counts in none.
        stage: where a miss was lost.
    """

    kind: str
    category: str
    score: float | None
    ap_loss: float | None
    outside: float | None
    story: str
    photo: str
    under_map: str
    annotated: str | None = None
    predicted: str | None = None
    stage: str | None = None


@dataclass(frozen=True)
class CocoReport:
    """What the page shows.

    Attributes:
        method: the method's name; ``asks_about_boxes``: whether its maps differ from box to box.
        n_explained, n_failures: boxes.
        evaluation: the content of ``evaluation.json``.
        kinds, stages, averages, cards: the rows and pictures of each section.
        matrix: which class was predicted as which.
        outside: class -> its true positives and its false ones.
        unreproduced: how many predictions from a file the detector does not make now, and of how many.
        command, versions: how the run was made.
    """

    method: str
    asks_about_boxes: bool
    n_explained: int
    n_failures: int
    evaluation: Mapping[str, Any]
    kinds: Sequence[KindRow]
    stages: Sequence[StageRow]
    matrix: MatrixTable
    averages: Sequence[AverageMap]
    cards: Sequence[BoxCard]
    outside: Mapping[str, tuple[OutsideShare | None, OutsideShare | None]]
    unreproduced: tuple[int, int]
    command: str
    versions: Mapping[str, str | None]


def coco_report_page(report: CocoReport) -> str:
    """The whole document; every text from a file is escaped."""
    return render("coco_report.html", report=report, evaluation=report.evaluation)
