"""A real training logs into real W&B and MLflow runs, offline, and it is read back. Skipped where they are absent."""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from small_trainings import scene_panel, train_in_a_plain_loop
from torch import nn

from detxai.callbacks.loggers import MLflowLogger
from detxai.callbacks.loop import ExplanationMonitor
from detxai.callbacks.output.epoch_report import EpochReport

BLOCK = 32 * 1024


def watched_training(out: Path, after_epoch: Any = lambda epoch: None) -> list[EpochReport]:
    """Three epochs; loggers are found by themselves."""
    monitor = ExplanationMonitor(scene_panel(n=1), out=out, budget=None, alarm=None, most_objects=1)
    reports = []

    def watch(model: nn.Module, epoch: int) -> None:
        report = monitor.step(model, epoch)
        assert report is not None
        reports.append(report)
        after_epoch(epoch)

    train_in_a_plain_loop(watch, n_epochs=3)
    monitor.finish()
    return reports


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """The steps in an offline run's file: LevelDB's log, in blocks of records (checksum, length, kind, bytes)."""
    proto: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (file,) = folder.rglob("*.wandb")
    steps = []
    for record in records(file.read_bytes()):
        read = proto.Record.FromString(record)
        if read.WhichOneof("record_type") == "history":
            items = read.history.item
            steps.append({".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
    return steps


def records(data: bytes) -> Iterator[bytes]:
    place, record = 7, b""  # after the file's own header
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.parametrize("training_logs", [False, True])
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training_logs: bool) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=tmp_path, project="detxai")
    reports = watched_training(tmp_path / "out", lambda epoch: run.log({"loss": epoch}) if training_logs else None)
    run.finish()
    wandb.teardown()  # waits until all is written
    history = wandb_history(tmp_path / "wandb")
    assert [step["detxai/epoch"] for step in history] == [0, 1, 2]
    assert [step.get("loss") for step in history] == ([0, 1, 2] if training_logs else [None] * 3)
    for step, report in zip(history, reports, strict=True):
        (seen,) = report.snapshots
        for measure in ("score", "energy_box", "evidence_mass"):
            assert step[f"detxai/{measure}/{seen.detection.name(0)}"] == pytest.approx(seen.measures[measure])
        (name,) = {name.split(".")[0] for name in step if name.startswith("detxai/panel/")}
        assert name == "detxai/panel/00_scene_40-0"
        (file,) = (tmp_path / "wandb").rglob(f"00_scene_40-0_{step['_step']}_*.png")
        ours = PIL.Image.open(tmp_path / "out" / "panel" / "00_scene_40-0" / f"epoch_{report.epoch:04d}.png")
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(file)), np.asarray(ours))


def test_mlflow_in_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # artifacts go beside the data base
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with mlflow.start_run() as run:
        reports = watched_training(tmp_path / "out")
        MLflowLogger().log(7, {"score/Käse (1): <a>, 50 %": 0.5}, {})  # what class names hold
    client = mlflow.MlflowClient()
    for measure in ("score", "energy_box", "evidence_mass"):
        (seen,) = reports[0].snapshots
        logged = client.get_metric_history(run.info.run_id, f"detxai/{measure}/{seen.detection.name(0)}")
        expected = [(report.epoch, pytest.approx(report.snapshots[0].measures[measure])) for report in reports]
        assert [(entry.step, entry.value) for entry in logged] == expected
    assert client.get_metric_history(run.info.run_id, "detxai/score/Käse _1__ _a__ 50 _")[0].value == 0.5
    images = client.list_artifacts(run.info.run_id, "detxai/panel/00_scene_40-0")
    assert [Path(image.path).name for image in images] == ["epoch_0000.png", "epoch_0001.png", "epoch_0002.png"]
    stored = PIL.Image.open(client.download_artifacts(run.info.run_id, images[2].path))
    ours = PIL.Image.open(tmp_path / "out" / "panel" / "00_scene_40-0" / "epoch_0002.png")
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(ours))
