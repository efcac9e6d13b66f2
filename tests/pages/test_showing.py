"""Explanations and detections on the screen: in a real notebook, in a terminal, in the system's viewer."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

import detxai
from detxai.detections import Detections
from detxai.explanation import Cost, Explanation

FOUND = Detections([[1.0, 2, 30, 40], [0, 0, 9.25, 8]], [0.9, 0.5], [1, 2], {1: "cat", 2: "<b>dog</b>"})


def explanation(detection: Detections | None = FOUND[0]) -> Explanation:
    values = np.zeros((50, 60), np.float32)
    values[10:20, 5:25] = 1
    image = np.full((50, 60, 3), 128, np.uint8)
    return Explanation(values, image, method="m", settings={}, cost=Cost(1, 1), detection=detection)


def picture(content: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(content))


def test_a_notebook_gets_the_overlay_as_png() -> None:
    shown = picture(explanation()._repr_png_())
    assert shown.format == "PNG"
    assert len(np.unique(np.asarray(shown.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_an_explanation_says_what_it_is_and_not_every_number() -> None:
    assert repr(explanation()) == "Explanation(cat 0.90 · m, 50 x 60 pixels)"
    assert repr(explanation(None)) == "Explanation(m · asks about no box, 50 x 60 pixels)"


def test_detections_print_as_a_table() -> None:
    assert str(FOUND) == (
        "  0  cat         0.90      1.0     2.0    30.0    40.0\n  1  <b>dog</b>  0.50      0.0     0.0     9.2     8.0"
    )
    assert str(FOUND[[]]) == "no detections"


def test_names_are_escaped_in_the_table_of_a_notebook() -> None:
    table = FOUND._repr_html_()
    assert "&lt;b&gt;dog&lt;/b&gt;" in table
    assert "<b>" not in table


def test_outside_a_notebook_the_systems_viewer_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[PIL.Image.Image] = []
    monkeypatch.setattr(PIL.Image.Image, "show", lambda picture, title=None: opened.append(picture))
    explanation().show(width=400)
    detxai.show([explanation(), explanation(None)], columns=3)
    single, several = opened
    assert several.width > single.width * 0.9


@pytest.mark.parametrize("given", [[FOUND], []])
def test_what_is_no_explanation_is_refused(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="explanations must"):
        detxai.show(given)


def test_a_real_notebook_shows_explanations_and_tables() -> None:
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    cells = [
        "import detxai\nfrom detxai.scenes import generate\ndetector = detxai.wrap('scenes-frcnn')\n"
        "image = generate(seed=3, kind='context').image\nfound = detector.detect(image)\nfound",
        "explanation = detxai.explain(detector, image, method='eigen_cam')[0]\nexplanation",
        "detxai.show([explanation])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    table, overlay, sheet = ([out["data"] for out in cell["outputs"] if "data" in out][-1] for cell in notebook.cells)
    assert "house-sun" in table["text/html"]
    for shown in (overlay, sheet):
        assert picture(base64.b64decode(shown["image/png"])).width > 400
