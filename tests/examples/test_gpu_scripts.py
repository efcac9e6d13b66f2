"""The scripts for a GPU, rehearsed on a CPU: where the device is the CPU, nothing may differ from the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_scripts import run_example

pytestmark = pytest.mark.slow


def test_d_rise_gpu_runs_on_a_cpu_too(tmp_path: Path) -> None:
    run_example("d_rise_gpu.py", "--device", "cpu", "--small", "--json", tmp_path / "gpu.json")
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    exact = record["exactness"]["scenes-frcnn"]
    assert exact == {"masks": 0, "scores": 0, "map, of its peak": 0}  # the device is the CPU: nothing may differ


def test_pixel_evidence_gpu_runs_on_a_cpu_too(tmp_path: Path) -> None:
    run_example("pixel_evidence_gpu.py", "--device", "cpu", "--small", "--json", tmp_path / "gpu.json")
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    for exact in record["exactness"].values():  # the device is the CPU: nothing may differ
        assert exact == {
            "partitions and orders": 0,
            "fine masks": 0,
            "gradients": 0,
            "region_shapley": 0,
            "pixel_evidence": 0,
        }
    for rates in record["speed"].values():
        assert rates["region_shapley, 144 passes"]["passes"] <= 144
        assert rates["pixel_evidence, 144 passes"]["passes"] <= 144


def test_gpu_check_runs_on_a_cpu_too(tmp_path: Path) -> None:
    run_example("gpu_check.py", "--device", "cpu", "--small", "--json", tmp_path / "gpu.json")
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert record["exactness"]["fasterrcnn"] == 0  # the device is the CPU: nothing may differ
    assert record["speed"]["n_boxes"] == 2
