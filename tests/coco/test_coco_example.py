"""The scripts about COCO files run: the evaluation that users copy, and what a run costs beside the bare calls."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from coco_files import detected_dataset, write_json
from example_scripts import run_example

import detxai.coco

pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[2]


def cost_curve() -> Any:
    spec = importlib.util.spec_from_file_location("coco_cost_curve", ROOT / "examples" / "coco_cost_curve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_the_simulated_cluster_is_as_fast_as_its_slowest_kind_of_process() -> None:
    curve = cost_curve()
    zero = curve.Pieces(*[0.0] * 8)
    boxes = [3] * 240
    slow_method = curve.replace(zero, method=2.0)
    assert curve.simulate(slow_method, boxes, 8).seconds == pytest.approx(240 * 3 * 2.0 / 8)
    slow_writer = curve.replace(slow_method, write=1.0)  # eight workers bring four boxes a second, it writes one
    found = curve.simulate(slow_writer, boxes, 8)
    assert found.bottleneck == "the writer"
    assert found.seconds == pytest.approx(240 * 3 * 1.0 + 3 * 2.0)  # and waits for the first
    slow_reader = curve.replace(slow_method, read=60.0)
    assert curve.simulate(slow_reader, boxes, 8).bottleneck == "readers"
    assert curve.outside_share(curve.replace(zero, read=1.0, method=3.0, detect=2.0), 1.0) == pytest.approx(1 / 6)


def test_coco_cost_curve_measures_and_simulates(tmp_path: Path) -> None:
    data = detected_dataset(tmp_path, n_images=3)
    given = ["--model", f"{ROOT / 'tests/faster_rcnns.py'}:small_faster_rcnn", "--method", "eigen_cam"]
    given += ["--images", str(data["images"]), "--annotations", str(data["annotations"]), "--pass-milliseconds", "2"]
    printed = run_example("coco_cost_curve.py", *given, "--n-images", "500")
    assert "outside detecting and the method:" in printed
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == [1, 2, 8, 64, 512]
    speeds = [float(row[1].replace(",", "")) for row in rows]
    assert speeds == sorted(speeds)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("way", ["local", "ray-2"])
def test_memory_is_flat_over_a_thousand_images(way: str, tmp_path: Path) -> None:
    if way != "local":
        pytest.importorskip("ray")
    run_example("coco_memory.py", "--n-images", 1000, "--ways", way, "--json", tmp_path / "memory.json")
    measured = json.loads((tmp_path / "memory.json").read_text())[way]
    assert measured["boxes"] > 500
    # of all processes: when Ray's end, what they shared with the command counts as the command's alone
    _, _, third, last = measured["all"]  # what explaining needs once, 90 MB, is there by the third quarter
    assert 0 < last < 1.05 * third
