"""The page is complete in one file and safe; the table and the summary say what the records say."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pytest
import torch

from detxai.evaluate.photos.photo import Photo, Truth
from detxai.evaluate.results.disagreement import disagreements
from detxai.evaluate.results.records import Record, quantities_of, thumbnail, write_parquet
from detxai.evaluate.results.report import write_report
from detxai.evaluate.results.statistics import score_stratum, size_stratum
from detxai.evaluate.results.summary import Summary
from detxai.evaluate.results.table import rank_table
from detxai.metrics import MEASURES, Measure, Objects
from detxai.pages.plots import box_plots, curves

EVIL = '<script>alert("x")</script>&'
MEASURES_TAKEN: list[Measure] = [MEASURES[name]() for name in ("insertion_deletion", "energy", "sparseness")]


def record(method: str, number: int, map_: torch.Tensor, **values: float) -> Record:
    curve = [0.0, values.get("insertion", 0.5), 1.0]
    return Record(
        image=f"{EVIL}{number}.jpg", kind="", number=number, place=3, box=(0.0, 0.0, 10.0 * (number + 1), 40.0),
        label=1, name=EVIL, score=0.4 + number / 10, of_object=0, method=method, seconds=0.5, values=values,
        curves={"fractions": [0.0, 0.5, 1.0], "insertion": curve, "deletion": curve[::-1]}, thumbnail=thumbnail(map_),
    )  # fmt: skip


def some_records() -> list[Record]:
    rising = torch.linspace(0, 1, 48 * 64).view(48, 64)
    records = []
    for number in range(4):
        same = rising + (number == 2) * 0.01 * torch.sin(60 * rising)
        for method, map_, good in (("first", rising, 0.8), ("second", 1 - rising if number == 1 else same, 0.6)):
            values = {"insertion": good - number / 10, "energy_box": good, "energy_box_chance": 0.2 + number / 10}
            records.append(record(method, number, map_, **values, sparseness=math.nan if number == 3 else 0.5))
    return records


def photos() -> list[Photo]:
    none = Truth(Objects(torch.zeros(0, 4), torch.zeros(0)))
    grey = np.full((48, 64, 3), 120, np.uint8)
    return [Photo(f"{EVIL}{number}.jpg", lambda: (grey, none)) for number in range(4)]


class Strict(HTMLParser):
    """Collects tags, and fails where one is closed that is not open."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    failures = [{"image": EVIL, "method": None, "error": EVIL}]
    write_report(path, Summary(some_records(), MEASURES_TAKEN), photos(), {"class_names": {"1": EVIL}}, failures)
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    return path.read_text()


def test_the_page_needs_nothing_beside_it_and_runs_nothing(page: str) -> None:
    reader = Strict()
    reader.feed(page)
    assert reader.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reader.seen}
    sources = [value for _, attributes in reader.seen for name, value in attributes.items() if name in ("src", "href")]
    assert sources
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "<script" not in page
    assert not re.search(r"\bnan\b", re.sub(r'data:[^"]*', "", page).lower())


def test_the_page_shows_curves_boxes_strata_and_maps(page: str) -> None:
    assert len(re.findall(r'id="curve-\d+"', page)) == 4  # two methods, two curves
    assert "By size" in page
    assert "By clean score" in page
    assert page.count("<figure>") == 4
    for words in ("insertion", "energy_box", "sparseness", "first", "second", "Failures"):
        assert words in page


def test_the_detections_that_methods_disagree_on_come_first() -> None:
    first, *others = disagreements(Summary(some_records(), MEASURES_TAKEN), 4)
    assert first.number == 1
    assert first.agreement == pytest.approx(-1, abs=0.01)
    assert all(other.agreement > 0.9 for other in others)
    drawn = first.explanations(np.zeros((48, 64, 3), np.uint8))
    assert [explanation.method for explanation in drawn] == ["first", "second"]
    assert drawn[0].values[-1, -1] > 0.9
    assert drawn[1].values[-1, -1] < 0.1


def test_thumbnails_are_the_heatmap_made_small() -> None:
    map_ = torch.zeros(100, 128)
    map_[:, 64:] = 3.0
    map_[:, :10] = -5.0
    small = record("m", 0, map_).small_heatmap
    assert small.shape == (50, 64)
    assert (small[:, 32:] == 1).all()
    assert (small[:, :32] == 0).all()


def test_the_summary_by_hand() -> None:
    summary = Summary(some_records(), MEASURES_TAKEN)
    best, second = summary.ranking("insertion").standings
    assert (best.method, best.interval.mean) == ("first", pytest.approx(0.65))
    assert second.behind is not None
    assert (second.behind.mean, second.behind.excludes_zero) == (pytest.approx(0.2), True)
    assert summary.ranking("energy_box").chance == pytest.approx(0.35)
    assert summary.ranking("sparseness").n == 3
    assert [standing.rank for standing in summary.ranking("sparseness").standings] == [1.5, 1.5]
    with pytest.raises(LookupError, match="quantity must be one of"):
        summary.ranking("deletion")
    first, other = summary.totals
    # insertion: 1, energy: 1, sparseness: 1.5, each measure once
    assert (first.mean_rank, other.mean_rank) == (pytest.approx(3.5 / 3), pytest.approx(5.5 / 3))
    assert first.ranks == {"faithful": 1, "place": 1, "other": 1.5}
    assert first.seconds.mean == 0.5
    sizes = summary.by_stratum("size")["insertion"]
    assert {name: of["first"].n for name, of in sizes.items()} == {"small": 2, "medium": 2}
    assert sizes["small"]["first"].mean == pytest.approx(0.75)
    json.dumps(summary.as_json(), allow_nan=False)


def test_a_detection_that_one_method_failed_on_is_left_out_for_all() -> None:
    records = [r for r in some_records() if (r.method, r.number) != ("second", 0)]
    summary = Summary(records, MEASURES_TAKEN)
    assert summary.n_dropped == 1
    assert summary.ranking("insertion").standing("first").interval.mean == pytest.approx(0.6)


def test_the_table_reads_from_the_best_down() -> None:
    text = rank_table(Summary(some_records(), MEASURES_TAKEN))
    lines = text.splitlines()
    assert lines[0].startswith("4 detections of 4 images")
    place = lines.index("insertion (higher is better; 4 detections)")
    assert lines[place + 1].split()[:3] == ["1", "first", "0.650"]
    assert lines[place + 2].split()[:3] == ["2", "second", "0.450"]
    assert lines[place + 2].endswith("behind by 0.200 [0.200, 0.200]")  # no star: of four images
    assert "energy_box (higher is better, chance 0.350; 4 detections)" in lines
    assert "energy_box_chance" not in text


def test_box_plots_and_curves_survive_whatever_there_is() -> None:
    places = {"a": 0, EVIL: 1}
    for values in ([math.nan], [0.5], [0.5, 0.5], [0.0, 1e9, -3.0]):
        drawn = box_plots({"a": np.array(values), EVIL: np.array([math.nan])}, places, chance=0.5)
        assert "nan" not in drawn
        assert "inf" not in drawn
        assert "<script" not in drawn
    flat = curves("t", np.array([0.0, 1.0]), {EVIL: np.zeros(2)}, "x", places)
    assert "<script" not in flat


def test_a_curve_goes_through_its_points() -> None:
    drawn = curves("t", np.array([0.0, 0.5, 1.0]), {"a": np.array([0.0, 0.25, 0.5])}, "x", {"a": 0})
    (points,) = re.findall(r'id="curve-0">\s*<path d="M ([^"]*)"', drawn)
    corners = [tuple(float(v) for v in point.split()) for point in points.split("L")]
    middle = tuple((a + b) / 2 for a, b in zip(corners[0], corners[2]))
    assert corners[1] == pytest.approx(middle, abs=0.1)
    assert corners[0][1] > corners[2][1]  # SVG counts downwards


def test_an_empty_table_still_has_its_columns(tmp_path: Path) -> None:
    import pyarrow.parquet

    write_parquet(tmp_path / "x.parquet", [], MEASURES_TAKEN, {})
    assert "quantity" in pyarrow.parquet.read_table(tmp_path / "x.parquet").column_names


def test_two_measures_may_not_call_a_quantity_the_same() -> None:
    energy: Any = MEASURES["energy"]
    with pytest.raises(ValueError, match="must not share 'energy_box'"):
        quantities_of([energy(), energy()])


@pytest.mark.parametrize(
    ("box", "score", "strata"),
    [
        ([5, 5, 5, 5], 0.0, ("small", "unsure")),  # an empty box
        ([0, 0, 64, 15.9], 0.499, ("small", "unsure")),
        ([0, 0, 64, 16], 0.5, ("medium", "likely")),
        ([0, 0, 96, 95.9], 0.749, ("medium", "likely")),
        ([0, 0, 96, 96], 0.75, ("large", "sure")),
    ],
)
def test_strata_at_their_bounds(box: list[float], score: float, strata: tuple[str, str]) -> None:
    assert (size_stratum(box), score_stratum(score)) == strata


def test_a_plot_is_the_same_under_a_style_of_the_users() -> None:
    lines = {"a": np.array([0.0, 0.25, 0.5])}
    own = curves("t", np.array([0.0, 0.5, 1.0]), lines, "x", {"a": 0})
    with matplotlib.style.context("ggplot"):
        assert curves("t", np.array([0.0, 0.5, 1.0]), lines, "x", {"a": 0}) == own
