"""The report opens offline, its filters work, and nothing from a file gets out of its place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import detected_dataset, write_json
from faster_rcnns import small_faster_rcnn

import detxai
import detxai.coco
from detxai.coco.summaries.box_average import SIDE, BoxAverage
from detxai.data.error_kinds import KINDS

pytest.importorskip("pyarrow")

HOSTILE = '<script>document.title="owned"</script>"&\'cat'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose first category carries a script in its name."""
    folder = tmp_path_factory.mktemp("report")
    data = detected_dataset(folder, n_images=4)
    content = json.loads(data["annotations"].read_text())
    content["categories"][0]["name"] = HOSTILE
    from detxai.data.coco_files import read_annotations

    annotations = read_annotations(write_json(folder / "hostile.json", content))
    kinds = [kind for kind in KINDS if kind != "ignored"]
    detector = detxai.wrap(small_faster_rcnn())
    done = detxai.coco.explain_errors(
        annotations, None, detector, images=data["images"], out=folder / "out", labels="by-id",
        method="ablation_cam", settings={"ratio_channels_to_ablate": 0.1},
        selection=detxai.coco.Selection(kinds=kinds, min_score=0.2), operating_point=0.2,
    )  # fmt: skip
    assert done.complete
    return done.folder / "report.html"


def test_the_report_needs_nothing_beside_it(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert HOSTILE not in text
    assert "&lt;script&gt;document.title" in text


def test_clicking_through_the_report(report: Path, chromium: Any, tmp_path: Path) -> None:
    page = chromium.new_page()
    page.set_default_timeout(5000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    page.goto(report.as_uri())
    assert page.title() == "detxai coco: why the mistakes happened"
    rows = detxai.coco.load(report.parent).table(["kind", "category", "score", "ap_loss"]).to_pylist()

    def visible() -> Any:
        return page.locator("#gallery figure:visible")

    everything = visible().count()
    assert (
        everything
        == int(page.locator("#shown").inner_text())
        == sum(min(24, sum(row["kind"] == kind for row in rows)) for kind in KINDS)
    )
    losses = [float(card.get_attribute("data-loss") or -1) for card in visible().all()]
    assert losses == sorted(losses, reverse=True)

    page.select_option("#kind", "missed")
    assert {card.get_attribute("data-kind") for card in visible().all()} == {"missed"}
    assert visible().count() == min(24, sum(row["kind"] == "missed" for row in rows))
    page.click('a[data-kind="background"]')
    assert {card.get_attribute("data-kind") for card in visible().all()} == {"background"}
    stage = page.locator("a[data-stage]").first
    stage.click()
    assert page.locator("#only").inner_text().startswith("lost: ")
    assert {card.get_attribute("data-stage") for card in visible().all()} == {stage.get_attribute("data-stage")}
    assert {card.get_attribute("data-kind") for card in visible().all()} == {"missed"}
    page.click("#only")
    assert visible().count() == everything
    for link in page.locator("a[data-annotated]").all():  # every number of the confusion matrix that has cases
        link.click()
        pair = link.get_attribute("data-annotated"), link.get_attribute("data-predicted")
        cards = visible().all()
        assert 0 < len(cards) <= int(link.inner_text())
        assert {(card.get_attribute("data-annotated"), card.get_attribute("data-predicted")) for card in cards} == {
            pair
        }
    page.click("#only")
    page.select_option("#kind", "")
    page.select_option("#class", HOSTILE)
    assert {card.get_attribute("data-category") for card in visible().all()} == {HOSTILE}
    page.select_option("#class", "")
    page.fill("#words", "wrong class and place")
    assert 0 < visible().count() < everything
    page.fill("#words", "")
    scores = [float(text) for card in visible().all() if (text := card.get_attribute("data-score"))]
    middle = round(sorted(scores)[len(scores) // 2], 2)
    page.locator("#score").evaluate(
        f"slider => {{ slider.value = {middle}; slider.dispatchEvent(new Event('input')) }}"
    )
    left = [card.get_attribute("data-score") for card in visible().all()]
    assert all(score == "" or float(score) >= middle for score in left)
    assert len(left) < everything
    page.select_option("#order", "score")

    card = visible().first
    assert card.locator(".map").is_visible()
    card.locator(".map").click()
    card.locator(".photo").wait_for(state="visible")
    assert not card.locator(".map").is_visible()

    shown = page.locator("#averages figure:visible")
    assert shown.count() == len({row["kind"] for row in rows})
    one_class = page.locator("#average-class option").nth(1).get_attribute("value")
    assert one_class in {row["category"] for row in rows}
    page.select_option("#average-class", one_class)
    assert {figure.get_attribute("data-category") for figure in shown.all()} == {one_class}
    head = page.locator("table.sorts").first.locator("th").nth(9)
    head.click()
    counts = [
        int(cell) for cell in page.locator("table.sorts").first.locator("tbody td:nth-child(10)").all_inner_texts()
    ]
    assert counts == sorted(counts, reverse=True)
    assert not problems
    page.close()


def slow_average(maps: Sequence[tuple[np.ndarray, tuple[float, ...]]]) -> np.ndarray:
    """Nearest pixels, one grid point at a time."""
    total, count = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for values, (x1, y1, x2, y2) in maps:
        heat = np.maximum(values, 0) / np.maximum(values, 0).max()
        for i in range(SIDE):
            for j in range(SIDE):
                y = y1 + ((i + 0.5) / SIDE * 2 - 0.5) * (y2 - y1)
                x = x1 + ((j + 0.5) / SIDE * 2 - 0.5) * (x2 - x1)
                if 0 <= y < values.shape[0] and 0 <= x < values.shape[1]:
                    total[i, j] += heat[int(y), int(x)]
                    count[i, j] += 1
    return np.asarray(total / np.maximum(count, 1))


def test_the_average_is_the_mean_over_stretched_boxes() -> None:
    rng = np.random.default_rng(0)
    maps = []
    average = BoxAverage()
    for box in ((10.0, 20.0, 34.0, 44.0), (0.0, 0.0, 96.0, 48.0), (70.0, 30.0, 95.0, 79.0)):
        coarse = rng.normal(size=(5, 6)).astype(np.float32)
        values = np.kron(coarse, np.ones((16, 16), dtype=np.float32))  # blocks: only at their edges bilinear differs
        maps.append((values, box))
        average.add(values, box)
    difference = np.abs(average.mean() - slow_average(maps))
    assert np.median(difference) < 1e-6
    assert (difference < 0.02).mean() > 0.8
    average.add(values, (5.0, 5.0, 5.0, 9.0))
    assert average.n == 3
