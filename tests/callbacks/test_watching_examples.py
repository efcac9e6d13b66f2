"""The scripts that users copy to watch a training run, for two real epochs, and TensorBoard has what they saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_scripts import run_example

from detxai.callbacks.output.epoch_csv import read_csv


def check(folder: Path, logs: Path) -> None:
    """Two epochs on disk, and the same numbers in TensorBoard."""
    rows = read_csv(folder / "classes.csv")
    assert {row["epoch"] for row in rows} == {"0", "1"}
    assert list((folder / "panel").glob("*.png"))
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(logs))
    events.Reload()
    for row in rows:
        logged = {entry.step: entry.value for entry in events.Scalars(f"detxai/score/{row['name']}")}
        assert logged[int(row["epoch"])] == pytest.approx(float(row["score"]), abs=1e-4)


@pytest.mark.slow
def test_watch_loop(tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run_example("watch_loop.py", "--epochs", 2, "--scenes", 8, "--panel", 2, "--budget", 0, "--out", out)
    assert "epoch 1: loss" in printed
    check(out, out / "tensorboard")


@pytest.mark.slow
def test_watch_ultralytics(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    out = tmp_path / "out"
    printed = run_example(
        "watch_ultralytics.py", "--epochs", 2, "--scenes", 8, "--imgsz", 64, "--budget", 0, "--out", out
    )
    assert "epoch 1: " in printed
    check(out / "train" / "detxai", out / "train" / "detxai" / "tensorboard")


@pytest.mark.slow
def test_watch_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    out = tmp_path / "out"
    printed = run_example("watch_lightning.py", "--epochs", 2, "--scenes", 8, "--panel", 2, "--budget", 0, "--out", out)
    assert "epoch 1: " in printed
    check(out / "detxai", next(out.rglob("events.out.tfevents.*")).parent)
