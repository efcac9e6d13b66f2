"""The page of a search for concepts shows what the search found, and sends a concept to its map."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")
pytest.importorskip("sklearn", reason="the extra concepts")

from app_pages import Page

import detxai
from detxai.app.options import AppOptions, ModelChoice, set_options
from detxai.app.views.concepts import picture_of
from detxai.cli import main

MODEL = "scenes-yolo"


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a page; a search for concepts is the one run in it."""
    folder = tmp_path_factory.mktemp("concepts")
    words = ["concepts", "find", "--model", MODEL, "--scenes", "spread", "--n-scenes", "2", "--layers", "model.16"]
    words += ["--max-concepts", "3", "--fits", "2", "--no-progress", "--out", str(folder / "runs" / "a-search")]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def page(search: Path) -> Page:
    """Its page."""
    return Page(search, {"page": "Data set", "run": "a-search"}, model=ModelChoice(MODEL))


@pytest.fixture(scope="module")
def summary(search: Path) -> Any:
    """What the command wrote."""
    return json.loads((search / "runs" / "a-search" / "summary.json").read_text())


def test_the_tables_hold_what_the_search_found(page: Page, summary: Any) -> None:
    assert f"{summary['n_boxes']} boxes" in page.text()
    for quantity in ("prevalence", "effect"):
        page.at.segmented_control(key="concept-quantity").set_value(quantity).run()
        table = page.at.dataframe[0].value.set_index("class")
        for of_class in summary["classes"]:
            top = of_class["concepts"][0]
            expected = top["effect"]["mean"] if quantity == "effect" else top["prevalence"]
            assert table.loc[of_class["name"], f"concept {top['number']}"] == expected
            assert table.loc[of_class["name"], "surroundings"] == of_class["context"]["mean"]
    for of_class in summary["classes"][:2]:
        page.at.selectbox(key="concept_class").set_value(str(of_class["label"])).run()
        shown = page.at.dataframe[1].value
        assert shown["concept"].tolist() == [entry["number"] for entry in of_class["concepts"]]
        for column, of_effect in (("effect", "mean"), ("from", "low"), ("to", "high")):
            values = [entry["effect"][of_effect] for entry in of_class["concepts"]]
            np.testing.assert_array_equal(shown[column].astype(float), np.array(values, dtype=float))
        assert shown["prevalence"].tolist() == [entry["prevalence"] for entry in of_class["concepts"]]
    (mixture,) = summary["mixtures"]
    assert f"{mixture['n_concepts']} concepts of {mixture['n_cells']} places" in page.text()
    assert f"other seeds {mixture['stability'][0]:.2f}" in page.text()


def test_a_concept_is_one_click_from_its_map(page: Page, summary: Any, search: Path) -> None:
    of_class = max(summary["classes"], key=lambda one: one["concepts"][0]["effect"]["mean"])
    number = of_class["concepts"][0]["number"]
    assert of_class["concepts"][0]["effect"]["mean"] > 0
    page.at.selectbox(key="concept_class").set_value(str(of_class["label"])).run()
    assert page.at.selectbox(key="concept").value == str(number)
    maps = [one for one in page.at.button if one.label == "Its map"]
    records = [
        box
        for part in sorted((search / "runs" / "a-search" / "parts").glob("[0-9]*.json"))
        for box in json.loads(part.read_text())["content"]
        if box["label"] == of_class["label"] and box["effects"][number] > 0
    ]
    assert len(maps) == min(10, len(records))
    strongest = max(records, key=lambda box: box["effects"][number])
    maps[0].click().run()
    page.finish()
    at = page.at
    assert (at.segmented_control(key="page").value, at.multiselect(key="methods").value) == ("Explain", ["concepts"])
    shown = page.explanation("concepts")
    np.testing.assert_allclose(shown.detection.boxes[0].tolist(), strongest["box"], atol=0.01)
    (expected,) = detxai.explain(
        detxai.wrap(MODEL), shown.image, "concepts", shown.detection, concepts=search / "runs" / "a-search",
        concept=number,
    )  # fmt: skip
    np.testing.assert_array_equal(shown.values, expected.values)
    assert any(f"concept={number}" in one.value for one in at.code)
    at.segmented_control(key="page").set_value("Data set").run()


def test_others_use_only_the_concepts_of_the_runs_folder(search: Path, tmp_path: Path) -> None:
    address = {"methods": ["concepts", "layer_cam"], "set": f"concepts.concepts={search / 'runs' / 'a-search'}"}
    for runs, offered in ((search / "runs", True), (tmp_path, False)):
        page = Page(search, address, runs=runs, host="0.0.0.0", token="secret")
        assert ("concepts" in page.at.multiselect(key="methods").value) == offered
        page.session.stop()


def test_a_picture_is_found_by_the_runs_options(tmp_path: Path) -> None:
    assert picture_of({"scenes": []}, "spread-501").scene == ("spread", 501)
    assert picture_of({"images": str(tmp_path)}, "a/b.png").path == tmp_path / "a" / "b.png"
    with pytest.raises(ValueError, match="a kind of scene and a seed"):
        picture_of({"scenes": []}, "b.png")
    with pytest.raises(ValueError, match="do not say where"):
        picture_of({"annotations": "data.yaml"}, "b.png")


@pytest.fixture(autouse=True, scope="module")
def options_as_before() -> Any:
    yield
    set_options(AppOptions())
