"""The scripts about COCO files run: the evaluation that users copy, and what a run costs beside the bare calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import detected_dataset, write_json
from example_scripts import run_example

import detxai.coco

pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[2]


def test_evaluate_and_explain(tmp_path: Path) -> None:
    data = detected_dataset(tmp_path, n_images=4)
    out = tmp_path / "out"
    given = ["--model", f"{ROOT / 'tests/faster_rcnns.py'}:small_faster_rcnn", "--method", "eigen_cam", "--worst", "6"]
    given += ["--images", str(data["images"]), "--annotations", str(data["annotations"]), "--out", str(out)]
    printed = run_example("evaluate_and_explain.py", *given)
    assert "Average Precision" in printed
    assert f"6 mistakes explained: open {out / 'report.html'}" in printed
    losses = [row["ap_loss"] for row in detxai.coco.load(out).rows()]
    assert len(losses) == 6
    assert min(losses) > 0
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("from_file", [False, True])
def test_coco_overhead_counts_every_round(tmp_path: Path, from_file: bool) -> None:
    data = detected_dataset(tmp_path, n_images=3)
    given = [
        "--model",
        f"{ROOT / 'tests/faster_rcnns.py'}:small_faster_rcnn",
        "--methods",
        "eigen_cam",
        "--rounds",
        "2",
    ]
    given += ["--images", str(data["images"]), "--annotations", str(data["annotations"])]
    if from_file:
        known = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
        given += ["--predictions", str(write_json(tmp_path / "predictions.json", [known]))]
    run_example("coco_overhead.py", *given, "--json", tmp_path / "o.json")
    rounds = json.loads((tmp_path / "o.json").read_text())
    assert set(rounds) == {"eigen_cam predictions", "eigen_cam misses too"}
    for ratios in rounds.values():
        assert len(ratios) == 2
        assert all(min(ratios_of_round) > 0 for ratios_of_round in ratios)
