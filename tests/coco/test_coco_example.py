"""The evaluation script that users copy runs, and explains what it evaluated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from coco_files import detected_dataset

import detxai.coco

pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[2]


def test_evaluate_and_explain(tmp_path: Path) -> None:
    data = detected_dataset(tmp_path, n_images=4)
    out = tmp_path / "out"
    given = ["--model", f"{ROOT / 'tests/faster_rcnns.py'}:small_faster_rcnn", "--method", "eigen_cam", "--worst", "6"]
    given += ["--images", str(data["images"]), "--annotations", str(data["annotations"]), "--out", str(out)]
    command = [sys.executable, str(ROOT / "examples/evaluate_and_explain.py"), *given]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr
    assert "Average Precision" in done.stdout
    assert f"6 mistakes explained: open {out / 'report.html'}" in done.stdout
    losses = [row["ap_loss"] for row in detxai.coco.load(out).rows()]
    assert len(losses) == 6
    assert min(losses) > 0
    assert (out / "report.html").is_file()
