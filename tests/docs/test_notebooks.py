"""The tutorials run as they stand, from an empty folder and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_notebooks import TUTORIALS, run

QUICK = ("explain_a_yolo", "your_faster_rcnn", "explain_a_detr")
NEEDS = {
    "explain_a_yolo": ("ultralytics",),
    "explain_a_detr": ("transformers",),
    "false_positives": ("pyarrow", "pandas"),
    "a_data_set_on_ray": ("ray", "pyarrow"),
    "is_it_right": ("pyarrow",),
}


@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(notebook, id=notebook.stem, marks=[] if notebook.stem in QUICK else [pytest.mark.slow])
        for notebook in sorted(TUTORIALS.glob("*.ipynb"))
    ],
)
def test_a_tutorial_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(notebook.stem, ()):
        pytest.importorskip(package)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells = [cell for cell in run(notebook) if cell["cell_type"] == "code"]
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert pictures
