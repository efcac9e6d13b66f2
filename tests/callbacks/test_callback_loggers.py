"""TensorBoard is read back; W&B and MLflow are checked for the shape of the calls (for real: ``test_real_loggers``)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faster_rcnns import small_faster_rcnn
from small_trainings import scene_panel, train_in_a_plain_loop

from detxai.callbacks.loggers import MLflowLogger, TensorBoardLogger, WandbLogger, automatic_loggers
from detxai.callbacks.loop import ExplanationMonitor

NUMBERS = {"energy_box/cat (1)": 0.25, "alarm/cat (1)": 1.0}
PICTURES = {"panel/00_a-0": np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)}


def read_back(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_holds_two_real_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    monitor = ExplanationMonitor(scene_panel(n=1), out=tmp_path, budget=None, alarm=None)  # loggers: what is installed
    reports = []
    train_in_a_plain_loop(lambda model, epoch: reports.append(monitor.step(model, epoch)))
    monitor.finish()
    events = read_back(tmp_path / "tensorboard")
    for report in reports:
        assert report is not None
        by_name: dict[str, list[float]] = {}
        for one in report.snapshots:
            by_name.setdefault(one.detection.name(0), []).append(one.measures["energy_box"])
        for name, values in by_name.items():
            logged = {entry.step: entry.value for entry in events.Scalars(f"detxai/energy_box/{name}")}
            assert logged[report.epoch] == pytest.approx(sum(values) / len(values), abs=1e-6)
    assert [entry.step for entry in events.Images("detxai/panel/00_scene_40-0")] == [0, 1]


def test_a_writer_of_somebody_else_stays_open(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    logger = TensorBoardLogger(writer)
    logger.log(4, NUMBERS, PICTURES)
    logger.close()
    writer.add_scalar("mine", 1.0, 5)
    writer.close()
    events = read_back(tmp_path)
    assert events.Scalars("detxai/energy_box/cat (1)")[0].step == 4
    assert events.Scalars("mine")[0].value == 1.0


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The few names of wandb's public API in use, each writing down its calls."""
    module: Any = ModuleType("wandb")
    module.calls = []
    module.Image = lambda picture: ("image", picture.shape)
    module.run = SimpleNamespace(step=0, log=lambda *given, **named: module.calls.append((given, named)))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The few names of mlflow's public API in use, each writing down its calls."""
    module: Any = ModuleType("mlflow")
    module.calls = []
    module.active_run = lambda: module.run
    module.run = object()
    module.log_metrics = lambda metrics, step: module.calls.append(("log_metrics", metrics, step))
    module.log_image = lambda image, artifact_file: module.calls.append(("log_image", image.shape, artifact_file))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def test_wandb_gets_one_uncommitted_log(wandb: Any) -> None:
    WandbLogger().log(2, NUMBERS, PICTURES)
    expected = {
        "detxai/energy_box/cat (1)": 0.25,
        "detxai/alarm/cat (1)": 1.0,
        "detxai/panel/00_a-0": ("image", (5, 7, 3)),
        "detxai/epoch": 2,
    }
    assert wandb.calls == [((expected,), {"commit": False})]  # the training's own log commits the step


def test_wandb_keeps_epochs_apart_where_nobody_else_logs(wandb: Any) -> None:
    logger = WandbLogger()
    logger.log(0, NUMBERS, {})
    logger.log(1, NUMBERS, {})
    wandb.run.step = 1  # the training's own log
    logger.log(2, NUMBERS, {})
    assert [(given[0].get("detxai/epoch"), named["commit"]) for given, named in wandb.calls] == [
        (0, False),
        (None, True),
        (1, False),
        (2, False),
    ]


def test_mlflow_gets_metrics_and_images(mlflow: Any) -> None:
    MLflowLogger().log(2, NUMBERS, PICTURES)
    assert mlflow.calls == [
        ("log_metrics", {"detxai/energy_box/cat _1_": 0.25, "detxai/alarm/cat _1_": 1.0}, 2),
        ("log_image", (5, 7, 3), "detxai/panel/00_a-0/epoch_0002.png"),
    ]


def test_only_active_runs_are_logged_into(tmp_path: Path, wandb: Any, mlflow: Any) -> None:
    kinds = {type(logger) for logger in automatic_loggers(tmp_path)}
    assert {WandbLogger, MLflowLogger} <= kinds
    wandb.run = mlflow.run = None
    kinds = {type(logger) for logger in automatic_loggers(tmp_path)}
    assert not {WandbLogger, MLflowLogger} & kinds
    with pytest.raises(RuntimeError, match="no Weights & Biases run is active"):
        WandbLogger()
    with pytest.raises(RuntimeError, match="no MLflow run is active"):
        MLflowLogger()


def test_ultralytics_own_writer_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    theirs: Any = ModuleType("ultralytics.utils.callbacks.tensorboard")
    theirs.WRITER = SummaryWriter(str(tmp_path / "theirs"))
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    (logger,) = automatic_loggers(tmp_path / "ours")
    logger.log(0, NUMBERS, {})
    logger.close()
    assert not (tmp_path / "ours").exists()
    assert read_back(tmp_path / "theirs").Scalars("detxai/energy_box/cat (1)")[0].value == 0.25
    theirs.WRITER.close()


@pytest.mark.parametrize(("logger", "package"), [(WandbLogger, "wandb"), (MLflowLogger, "mlflow")])
def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, logger: Any, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        logger()


def test_a_logger_that_fails_stops_no_training(tmp_path: Path) -> None:
    class Broken:
        def log(self, *arguments: Any) -> None:
            raise OSError("disk full")

        def close(self) -> None:
            raise OSError("disk full")

    settings: dict[str, Any] = {"budget": None, "alarm": None, "loggers": [Broken()]}
    monitor = ExplanationMonitor(scene_panel(n=1), out=tmp_path, **settings)
    assert monitor.step(small_faster_rcnn(n_classes=11), 0) is None
    monitor.finish()
