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


def test_three_tutorials_run() -> None:
    """In one kernel, to save time; each in a kernel of its own is a slow test."""
    check([TUTORIALS / f"{name}.ipynb" for name in QUICK])


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda notebook: notebook.stem)
def test_a_tutorial_runs(notebook: Path) -> None:
    check([notebook])


def check(notebooks: list[Path]) -> None:
    """Run them: no cell fails, and each draws something."""
    for notebook in notebooks:
        for package in NEEDS.get(notebook.stem, ()):
            pytest.importorskip(package)
    cells = [cell for cell in run(*notebooks) if cell["cell_type"] == "code"]
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) >= len(notebooks)
