"""Two processes that train together end as they end without a monitor, and only the first one writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import same

from detxai.callbacks.output.epoch_csv import read_csv
from detxai.scenes import export_ultralytics

WORKER = Path(__file__).with_name("distributed_trainings.py")
MINUTES = 5  # a process that waits for one that does not come is ended; a busy machine needs one of them

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)


def run(*command: object) -> None:
    offline = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    alone = {**os.environ, **offline, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[1])}
    called = [sys.executable, *map(str, command)]
    done = subprocess.run(called, capture_output=True, text=True, env=alone, check=False, timeout=60 * MINUTES)
    if "Cannot use ReduceOp.AVG with Gloo" in done.stderr:
        pytest.skip("this ultralytics averages its losses over processes, which this torch cannot on a CPU")
    assert done.returncode == 0, done.stderr


def check(out: Path) -> None:
    """The ends of both trainings in both processes, and the folder."""
    ends: dict[str, list[Any]] = {
        name: [torch.load(out / f"{name} {rank}.pt", weights_only=True) for rank in range(2)]
        for name in ("alone", "watched")
    }
    assert same(ends["alone"], ends["watched"])
    first, second = ends["watched"]
    buffers = {name for name in first["model"] if "running_" in name or "num_batches" in name}  # each its own images'
    for name in first["model"].keys() - buffers:
        assert torch.equal(first["model"][name], second["model"][name]), name
    assert same(first["gradients"], second["gradients"])
    assert first["random"] != second["random"]  # they did not train twice the same

    assert {row["epoch"] for row in read_csv(out / "rank 0" / "curves.csv")} == {"0", "1"}
    assert len(list((out / "rank 0" / "panel").glob("*.gif"))) == 2
    assert not (out / "rank 1").exists()


def test_a_plain_loop(tmp_path: Path) -> None:
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, WORKER, "loop", tmp_path)
    check(tmp_path)


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    run(WORKER, "lightning", tmp_path)
    check(tmp_path)


@pytest.mark.slow
def test_ultralytics(tmp_path: Path) -> None:
    """What only several GPUs run otherwise, with two processes on a CPU."""
    pytest.importorskip("ultralytics")
    export_ultralytics(tmp_path / "data", 8, 6, seed=3, kind="local", size=96)
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, WORKER, "ultralytics", tmp_path)
    check(tmp_path)
    assert list((tmp_path / "rank 0" / "mistakes").rglob("miss_*.png"))
