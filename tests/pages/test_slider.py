"""The slider over methods, moved in a real kernel."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

import detxai
from detxai.explanation import Cost, Explanation

IMAGE = np.zeros((32, 40, 3), np.uint8)
NOTEBOOK = """
import numpy as np
import detxai
from detxai.explanation import Cost, Explanation

image = np.zeros((32, 40, 3), np.uint8)
found = detxai.Detections([[4, 4, 20, 20], [8, 8, 30, 30]], [0.9, 0.5], [0, 0], {0: "cat"})
boxes = [found[0], found[1]]
rng = np.random.default_rng(0)


def made(method, box):
    return Explanation(rng.random((32, 40)), image, method, {}, Cost(0.0, 1), box)


maps = [made("layer_cam", boxes[0]), made("layer_cam", boxes[1]), made("d_rise", boxes[0]), made("eigen_cam", None)]
slider = detxai.slider(maps)
box, stop, picture = slider.children
slider
"""
MOVED = """
seen = [picture.value]
for place in (1, 2):
    stop.value = place
    seen.append(picture.value)
print(len(set(seen)), [name for name, _ in stop.options])
stop.value = 0
print(picture.value == seen[0])
stop.value = 2
box.value = box.options[1]
print([name for name, _ in stop.options], stop.value, picture.value[:4] == b"\\x89PNG")
"""


@pytest.mark.slow
def test_moving_the_slider_in_a_notebook_changes_the_picture() -> None:
    for package in ("ipykernel", "ipywidgets"):
        pytest.importorskip(package)
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [nbformat.v4.new_code_cell(code) for code in (NOTEBOOK, MOVED)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown, moved = (cell["outputs"] for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in shown[-1]["data"]
    three, again, other_box = "".join(out["text"] for out in moved if out.get("name") == "stdout").splitlines()
    assert three == "3 ['layer_cam', 'd_rise', 'eigen_cam']"
    assert again == "True"
    assert other_box == "['layer_cam', 'eigen_cam'] 1 True"


@pytest.mark.parametrize(("given", "error"), [([], ValueError), (["map"], TypeError)])
def test_what_is_no_explanation_is_refused(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="explanations must"):
        detxai.slider(given)


def test_without_ipywidgets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_ipywidgets(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "ipywidgets":
            raise ImportError(name)
        return imported(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_ipywidgets)
    one = Explanation(np.ones((32, 40), np.float32), IMAGE, "eigen_cam", {}, Cost(0.0, 1))
    with pytest.raises(ImportError, match=r"detxai\[notebook\]"):
        detxai.slider([one])
