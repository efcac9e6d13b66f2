"""Real ultralytics trainings of a tiny YOLO, with and without ``attach``."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("ultralytics")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")

from small_trainings import everything_of, random_states, same, scene_panel, seed_everything
from ultralytics import YOLO

from detxai import AblationCAM
from detxai.callbacks.output.epoch_csv import read_csv
from detxai.callbacks.ultralytics import UltralyticsWatcher, _kept_from_training, attach
from detxai.callbacks.ultralytics_images import evenly_spread
from detxai.scenes import export_ultralytics

SETTINGS: dict[str, Any] = {
    "imgsz": 64,
    "batch": 4,
    "nbs": 8,  # gradients of two batches are accumulated
    "warmup_epochs": 0,
    "amp": False,
    "plots": False,
    "workers": 0,
    "seed": 0,
    "deterministic": True,
    "device": "cpu",
    "verbose": False,
    "exist_ok": True,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_ultralytics(tmp_path_factory.mktemp("scenes") / "data", 8, 6, seed=3, kind="local", size=96)


class Snapshots:
    """The whole state of a trainer at the end of each epoch, and of the random generators."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def __call__(self, trainer: Any) -> None:
        self.taken.append(
            (
                {name: value.clone() for name, value in trainer.model.state_dict().items()},
                {name: value.clone() for name, value in trainer.ema.ema.state_dict().items()},
                copy.deepcopy(trainer.optimizer.state_dict()),
                random_states(),
                [module.training for module in trainer.model.modules()],
                [module.training for module in trainer.ema.ema.modules()],
                trainer.stopper.best_fitness,
            )
        )


def train(data: Path, out: Path, prepare: Callable[[Any], Any] | None, **settings: Any) -> tuple[Any, Any, list[Any]]:
    """A training of two epochs: the YOLO, what ``prepare`` gave, and the states after every epoch."""
    seed_everything()
    yolo = YOLO("yolov8n.yaml")
    prepared = None if prepare is None else prepare(yolo)
    states = Snapshots()
    yolo.add_callback("on_fit_epoch_end", states)
    yolo.train(data=str(data), project=str(out), name="run", **{"epochs": 2, **SETTINGS, **settings})
    return yolo, prepared, states.taken


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    train(data, tmp_path_factory.mktemp("first"), None, epochs=1)  # a process's first differs in some releases
    return train(data, tmp_path_factory.mktemp("plain"), None)[2]


def attached(yolo: Any, **settings: Any) -> UltralyticsWatcher:
    given: dict[str, Any] = {
        "budget": None,
        "loggers": [],
        "images": 3,
        "score_threshold": 1e-4,
        "alarm": None,
        "most_objects": 1,
    }
    return attach(yolo, **{**given, **settings})


def test_training_is_the_same_training(data: Path, plain: list[Any], tmp_path: Path) -> None:
    _, watcher, states = train(data, tmp_path, attached)
    assert len(plain) == 3  # two epochs, and what ultralytics announces after its final validation
    assert same(plain, states)
    assert [report.epoch for report in watcher.reports] == [0, 1]
    assert [len(report.snapshots) for report in watcher.reports] == [3, 3]
    assert all({one.kind for one in report.mistakes} <= {"false_positive", "miss"} for report in watcher.reports)
    assert any(one.kind == "miss" for one in watcher.reports[0].mistakes)
    for report in watcher.reports:  # kept for the whole training: without the maps, which are large
        assert all(one.explanation is None for one in (*report.snapshots, *report.mistakes))

    out = tmp_path / "run" / "detxai"
    assert len(read_csv(out / "curves.csv")) == 6
    assert len(list((out / "panel").glob("*.gif"))) == 3
    assert {file.name.split("_0")[0] for file in (out / "mistakes" / "epoch_0000").iterdir()} >= {"miss"}


def test_training_with_amp_is_the_same_training(data: Path, plain: list[Any], tmp_path: Path) -> None:
    """Where ultralytics decides: on a CPU it says no, and trains as without."""
    yolo, watcher, states = train(data, tmp_path, attached, amp=True)
    assert not yolo.trainer.amp
    assert same(plain, states)
    assert [len(report.snapshots) for report in watcher.reports] == [3, 3]


@pytest.mark.slow
def test_training_in_mixed_precision_is_the_same_training(data: Path, plain: list[Any], tmp_path: Path) -> None:
    """Switched on after ultralytics has said no: its loop then runs under autocast, in bfloat16."""

    def switch_on(trainer: Any) -> None:
        trainer.amp = True

    def mixed(yolo: Any) -> None:
        yolo.add_callback("on_pretrain_routine_end", switch_on)

    def watched(yolo: Any) -> Any:
        mixed(yolo)
        return attached(yolo)

    _, _, alone = train(data, tmp_path / "alone", mixed)
    assert not same(plain, alone)
    _, watcher, states = train(data, tmp_path, watched)
    assert same(alone, states)
    assert [len(report.snapshots) for report in watcher.reports] == [3, 3]


def test_training_is_the_same_where_explaining_fails(
    data: Path, plain: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        name, asks_about_boxes = "failing", True

        def __call__(self, *arguments: Any) -> Any:
            torch.rand(5)
            raise RuntimeError("boom")

    with caplog.at_level(logging.ERROR, "detxai"):
        _, watcher, states = train(data, tmp_path, lambda yolo: attached(yolo, method=Failing()))
    assert same(plain, states)
    assert watcher.reports == []
    assert sum("boom" in str(record.exc_info) for record in caplog.records) == 2


def test_resume_goes_on_with_the_files(data: Path, tmp_path: Path) -> None:
    class PowerError(Exception):
        pass

    def until_the_power_fails(yolo: Any) -> Any:
        def cut(trainer: Any) -> None:
            if trainer.epoch == 1:
                raise PowerError

        watcher = attached(yolo)
        yolo.add_callback("on_train_epoch_end", cut)
        return watcher

    with pytest.raises(PowerError):
        train(data, tmp_path, until_the_power_fails, epochs=3)
    out = tmp_path / "run" / "detxai"
    assert {row["epoch"] for row in read_csv(out / "curves.csv")} == {"0"}
    assert len(list((out / "panel").glob("*.gif"))) == 3  # written although training failed

    yolo = YOLO(tmp_path / "run" / "weights" / "last.pt")
    attached(yolo)
    yolo.train(resume=True)
    assert [row["epoch"] for row in read_csv(out / "curves.csv")] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert all(len(list(folder.iterdir())) == 3 for folder in (out / "panel").iterdir() if folder.is_dir())


def test_train_and_val_into_one_folder_get_one_each(data: Path, tmp_path: Path) -> None:
    """And the default time budget shows the first and the last epoch of a training of seconds."""
    settings: dict[str, Any] = {"out": tmp_path / "w", "budget": 1e-6, "mistakes": 0}
    yolo, watcher, _ = train(data, tmp_path, lambda yolo: attached(yolo, **settings), epochs=3)
    assert [(report.epoch, len(report.snapshots)) for report in watcher.reports] == [(0, 3), (1, 0), (2, 3)]
    before = {path: path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file()}
    assert len(list((tmp_path / "w" / "panel").glob("*.gif"))) == 3
    yolo.val(data=str(data), imgsz=64, device="cpu", plots=False, verbose=False, project=str(tmp_path), name="val")
    assert {path: path.read_bytes() for path in before} == before
    assert {row["epoch"] for row in read_csv(tmp_path / "w" / "curves.csv")} == {"0", "2"}
    assert {row["epoch"] for row in read_csv(tmp_path / "w2" / "curves.csv")} == {"0"}


def test_val_alone(data: Path, tmp_path: Path) -> None:
    from detxai.scenes import load_yolo

    try:
        yolo = load_yolo()
    except FileNotFoundError:
        pytest.skip("the weights of the small YOLO are not in this checkout")
    watcher = attached(yolo, images=scene_panel(first_label=0), out=tmp_path / "seen", score_threshold=0.25)
    before = everything_of(yolo.model)
    yolo.val(data=str(data), imgsz=160, device="cpu", plots=False, verbose=False, project=str(tmp_path), name="val")
    assert same(before, everything_of(yolo.model))
    (report,) = watcher.reports
    assert report.snapshots[0].measures["score"] > 0.5  # the detector was trained on such scenes
    assert read_csv(tmp_path / "seen" / "curves.csv")[0]["name"].startswith("parcel")


def test_other_ranks_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    watcher = attached(YOLO("yolov8n.yaml"))
    watcher.on_train_start(SimpleNamespace(save_dir=tmp_path))
    watcher.on_train_epoch_end(SimpleNamespace(epoch=0))
    watcher.on_fit_epoch_end(SimpleNamespace(epoch=0))
    assert watcher.monitor is None
    assert not list(tmp_path.iterdir())


def test_callbacks_travel_to_other_processes() -> None:
    watcher = attached(YOLO("yolov8n.yaml"), images=scene_panel(n=1), method=AblationCAM(0.2))
    sent = pickle.loads(pickle.dumps(watcher.on_fit_epoch_end)).__self__  # noqa: S301 (our own bytes)
    assert isinstance(sent, UltralyticsWatcher)
    assert sent._settings["method"] == AblationCAM(0.2)
    assert len(pickle.dumps(watcher)) < 10**6  # the panel, not the network


@pytest.mark.slow
def test_the_processes_of_several_gpus_explain(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics' own file for such a process, run as it stands, on a CPU and alone."""
    pytest.importorskip("cloudpickle")
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import dist

    monkeypatch.setattr(dist, "USER_CONFIG_DIR", tmp_path)
    yolo = YOLO("yolov8n.yaml")
    attached(yolo)
    settings = {"model": "yolov8n.yaml", "data": str(data), "project": str(tmp_path), "name": "run", "epochs": 1}
    trainer = DetectionTrainer(overrides={**SETTINGS, **settings}, _callbacks=yolo.callbacks)
    trainer.model = trainer.get_model(cfg=yolo.model.yaml, verbose=False)
    try:
        file = dist.generate_ddp_file(trainer)
        done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    finally:
        dist.ddp_cleanup(trainer, file)
    assert done.returncode == 0, done.stderr
    assert len(read_csv(tmp_path / "run" / "detxai" / "curves.csv")) == 3
    assert len(list((tmp_path / "run" / "detxai" / "panel").glob("*.png"))) == 3


def test_the_time_it_takes_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    trainer = SimpleNamespace(train_time_start=100.0, epoch_time_start=160.0)
    with caplog.at_level(logging.ERROR, "detxai"), _kept_from_training(trainer):
        time.sleep(0.05)
        raise ValueError("boom")
    assert "training goes on" in caplog.text
    assert 0.05 <= trainer.train_time_start - 100.0 < 1
    assert trainer.epoch_time_start - 160.0 == pytest.approx(trainer.train_time_start - 100.0, abs=0.01)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": 0}, ValueError, "images must be a panel of images or how many"),
        ({"images": ["nowhere.png"]}, FileNotFoundError, "no such file"),
        ({"mistakes": -1}, ValueError, "mistakes must be a whole number from 0"),
        ({"every": 0}, ValueError, "every must be a whole number from 1"),
        ({"method": "gradcam"}, ValueError, "method must be one of"),
    ],
)
def test_bad_arguments_are_told_before_training(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        attach(YOLO("yolov8n.yaml"), **change)


def test_what_is_no_yolo_is_refused() -> None:
    with pytest.raises(TypeError, match="yolo must be an ultralytics YOLO or RTDETR, got Linear"):
        attach(torch.nn.Linear(1, 1))


def test_evenly_spread_places_are_places() -> None:
    for n in range(1, 30):
        for most in range(1, 12):
            places = evenly_spread(n, most)
            assert places == sorted(set(places))
            assert len(places) == min(n, most)
            assert 0 <= places[0] <= places[-1] < n
