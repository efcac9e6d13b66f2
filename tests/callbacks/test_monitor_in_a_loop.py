"""A plain training loop under the monitor is the same training, and what was seen is on disk."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from faster_rcnns import small_faster_rcnn
from small_trainings import (
    everything_of,
    random_states,
    same,
    scene_panel,
    seed_everything,
    train_in_a_plain_loop,
)
from torch import nn

from detxai import AblationCAM
from detxai.callbacks.loop import PATIENCE, ExplanationMonitor
from detxai.callbacks.mistakes import Mistake
from detxai.callbacks.output.epoch_csv import read_csv
from detxai.callbacks.panel import PanelImage


class Careless:
    """A method that draws random numbers of every kind, and fails or not."""

    name = "careless"
    asks_about_boxes = True

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self, detector: Any, image: Any, detections: Any) -> Any:
        import random

        random.random(), np.random.rand(3), torch.rand(3)
        if self.error is not None:
            raise self.error
        return AblationCAM(0.1, progress=False)(detector, image, detections)


def watched(out: Path, **settings: Any) -> ExplanationMonitor:
    given: dict[str, Any] = {"budget": None, "alarm": None, "loggers": [], "most_objects": 1}
    return ExplanationMonitor(scene_panel(n=2), out=out, **{**given, **settings})


@pytest.mark.parametrize(
    ("method", "accumulate", "precision"),
    [
        pytest.param(None, 1, None, id="default"),
        pytest.param(None, 2, None, id="accumulating", marks=pytest.mark.slow),
        pytest.param(None, 2, torch.bfloat16, id="mixed precision", marks=pytest.mark.slow),
        pytest.param(Careless(), 2, None, id="drawing random numbers"),
        pytest.param(Careless(RuntimeError("boom")), 2, None, id="failing"),
    ],
)
def test_training_is_the_same_training(
    tmp_path: Path, method: Any, accumulate: int, precision: torch.dtype | None
) -> None:
    settings: dict[str, Any] = {"accumulate": accumulate, "precision": precision}
    plain = train_in_a_plain_loop(lambda model, epoch: None, **settings)
    monitor = watched(tmp_path / "out", method=method)
    seen: list[bool] = []

    def look(model: nn.Module, epoch: int) -> None:
        before, states = everything_of(model), random_states()
        monitor.step(model, epoch)
        seen.append(same(before, everything_of(model)) and states == random_states())

    other = train_in_a_plain_loop(look, **settings)
    assert seen == [True, True]
    assert same(plain[0].state_dict(), other[0].state_dict())
    assert same(plain[1].state_dict(), other[1].state_dict())
    assert plain[2] == other[2]


def test_accumulated_gradients_survive_a_step(tmp_path: Path) -> None:
    model, _, _ = train_in_a_plain_loop(lambda model, epoch: None, n_epochs=1, accumulate=2)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients)  # three batches, two a step: one is left over
    before = everything_of(model)
    assert watched(tmp_path).step(model, 0) is not None
    assert same(before, everything_of(model))
    assert all(now is then for now, then in zip([p.grad for p in model.parameters() if p.grad is not None], gradients))


def test_inside_no_grad_inference_mode_and_autocast(tmp_path: Path) -> None:
    model = small_faster_rcnn(n_classes=11)
    plain = watched(tmp_path / "plain").step(model, 0)
    assert plain is not None
    contexts: tuple[Any, ...] = (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16))
    for place, context in enumerate(contexts):
        with context:
            report = watched(tmp_path / str(place)).step(model, 0)
        assert report is not None
        for one, other in zip(plain.snapshots, report.snapshots, strict=True):
            assert one.explanation is not None
            assert other.explanation is not None
            np.testing.assert_array_equal(one.explanation.values, other.explanation.values)


def test_two_epochs_on_disk(tmp_path: Path) -> None:
    monitor = watched(tmp_path / "out")
    train_in_a_plain_loop(monitor.step)
    monitor.finish()
    rows = read_csv(tmp_path / "out" / "curves.csv")
    assert [(row["epoch"], row["image"]) for row in rows] == [
        (epoch, image) for epoch in "01" for image in ("00_scene_40", "01_scene_41")
    ]
    for row in rows:
        assert 0 <= float(row["energy_box"]) <= 1
        assert 0 < float(row["energy_box_chance"]) < 1
        assert 0 < float(row["evidence_mass_chance"]) < 0.1
        assert (row["change"] == "") == (row["epoch"] == "0")
    for name in {row["image"] for row in rows}:
        frames = sorted((tmp_path / "out" / "panel" / f"{name}-0").iterdir())
        assert [file.name for file in frames] == ["epoch_0000.png", "epoch_0001.png"]
        strip = PIL.Image.open(tmp_path / "out" / "panel" / f"{name}-0.png")
        assert strip.width == 2 * PIL.Image.open(frames[0]).width
        assert PIL.Image.open(tmp_path / "out" / "panel" / f"{name}-0.gif").n_frames == 2
    assert not list((tmp_path / "out").rglob("*.partial*"))


def test_every_nth_epoch_and_the_last(tmp_path: Path) -> None:
    model, monitor = small_faster_rcnn(n_classes=11), watched(tmp_path, every=3)
    assert [epoch for epoch in range(7) if monitor.step(model, epoch) is not None] == [2, 5]
    last = monitor.finish()
    assert last is not None
    assert (last.epoch, len(last.snapshots)) == (6, 2)


def test_a_second_training_leaves_the_first_alone(tmp_path: Path) -> None:
    """The same monitor again, another one, and one that goes on: nothing that was written changes or goes."""
    model = small_faster_rcnn(n_classes=11)
    before: dict[Path, bytes] = {}

    def run(monitor: ExplanationMonitor, epochs: range, folder: str) -> None:
        for epoch in epochs:
            monitor.step(model, epoch)
        monitor.finish()
        assert monitor.folder == tmp_path / folder
        assert {path: path.read_bytes() for path in before} == before
        before.update({path: path.read_bytes() for path in tmp_path.rglob("epoch_*.png")})
        before.update({path: path.read_bytes() for path in tmp_path.glob("w[23]/*.csv")})

    first = watched(tmp_path / "w")
    run(first, range(2), "w")
    run(first, range(1), "w2")
    run(watched(tmp_path / "w"), range(1), "w3")
    run(watched(tmp_path / "w", resume=True), range(2, 3), "w")
    assert [row["epoch"] for row in read_csv(tmp_path / "w" / "curves.csv")] == ["0", "0", "1", "1", "2", "2"]


def test_an_epoch_done_again_sets_the_first_try_aside(tmp_path: Path) -> None:
    model, monitor = small_faster_rcnn(n_classes=11), watched(tmp_path / "w")
    for epoch in (0, 1, 2, 1):  # as ultralytics does where a loss became NaN
        monitor.step(model, epoch)
    assert [row["epoch"] for row in read_csv(tmp_path / "w" / "curves.csv")] == ["0", "0", "1", "1"]
    aside = tmp_path / "w" / "superseded"
    assert [row["epoch"] for row in read_csv(aside / "curves.csv")] == ["0", "0", "1", "1", "2", "2"]
    assert sorted(file.name for file in aside.rglob("epoch_*.png")) == ["epoch_0001.png"] * 2 + ["epoch_0002.png"] * 2


@pytest.mark.parametrize("mistake", [False, True])
def test_a_ctrl_c_that_the_method_took_stops_the_training_and_nothing_partial_is_kept(
    tmp_path: Path, mistake: bool
) -> None:
    class Interrupted(Careless):
        """Gives what there is after a Ctrl-C, as D-RISE may."""

        calls = 0

        def __call__(self, detector: Any, image: Any, detections: Any) -> Any:
            type(self).calls += 1
            found = super().__call__(detector, image, detections)
            ends = self.calls == (3 if mistake else 2)  # the panel has two images
            return [dataclasses.replace(one, partial=ends) for one in found]

    model = small_faster_rcnn(n_classes=11)
    monitor = watched(tmp_path / "w", method=Interrupted())
    mistakes = [Mistake("miss", scene_panel(first=60)[0], score_threshold=0.9)]
    with pytest.raises(KeyboardInterrupt):
        monitor.step(model, 0, mistakes=mistakes)
    monitor.finish(failed=True)
    assert len(list((tmp_path / "w" / "panel").rglob("epoch_*.png"))) == (2 if mistake else 1)
    assert not (tmp_path / "w" / "mistakes").exists()


def test_an_unchanged_model_has_no_change(tmp_path: Path) -> None:
    model, monitor = small_faster_rcnn(n_classes=11), watched(tmp_path)
    monitor.step(model, 0)
    report = monitor.step(model, 1)
    assert report is not None
    assert [one.measures["change"] for one in report.snapshots] == pytest.approx([0.0] * len(report.snapshots))


def test_images_without_annotations_are_asked_about_what_is_found(tmp_path: Path) -> None:
    model = small_faster_rcnn(n_classes=11)
    image = scene_panel()[0].pixels
    monitor = ExplanationMonitor(
        [image], out=tmp_path, budget=None, loggers=[], score_threshold=0.1, method="eigen_cam", most_objects=3
    )
    report = monitor.step(model, 0)
    assert report is not None
    scores = [float(one.detection.scores[0]) for one in report.snapshots]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0.1
    assert len({id(one.explanation) for one in report.snapshots}) == 1  # EigenCAM asks about no box


def test_failures_are_logged_and_after_three_in_a_row_it_gives_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = watched(tmp_path, method=Careless(RuntimeError("boom")))
    model = small_faster_rcnn(n_classes=11)
    with caplog.at_level(logging.ERROR, "detxai"):
        for epoch in range(5):
            assert monitor.step(model, epoch) is None
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == PATIENCE
    assert "boom" in str(tracebacks[0].exc_info)
    assert monitor.given_up
    assert "no more of it" in caplog.text


def test_one_success_forgives_failures(tmp_path: Path) -> None:
    careless = Careless(RuntimeError("boom"))
    monitor, model = watched(tmp_path, method=careless), small_faster_rcnn(n_classes=11)
    for epoch in range(8):
        careless.error = None if epoch % 3 == 2 else RuntimeError("boom")
        assert (monitor.step(model, epoch) is None) == (careless.error is not None)
    assert not monitor.given_up


def test_ctrl_c_goes_through(tmp_path: Path) -> None:
    class Interrupted(Careless):
        def __call__(self, detector: Any, image: Any, detections: Any) -> Any:
            raise KeyboardInterrupt

    seed_everything()
    model = small_faster_rcnn(n_classes=11).train()
    before, states = everything_of(model), random_states()
    with pytest.raises(KeyboardInterrupt):
        watched(tmp_path, method=Interrupted()).step(model, 0)
    assert same(before, everything_of(model))
    assert states == random_states()


def test_only_rank_zero_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert watched(tmp_path / "out").step(small_faster_rcnn(n_classes=11), 0) is None
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("RANK", "0")
    assert watched(tmp_path / "out").step(small_faster_rcnn(n_classes=11), 0) is not None


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": []}, ValueError, "images must not be empty"),
        ({"images": "a.png"}, TypeError, "images must be a list"),
        ({"images": ["nowhere.png"]}, FileNotFoundError, "no such file"),
        ({"every": 0}, ValueError, "every must be a whole number from 1, got 0"),
        ({"most_objects": 1.5}, ValueError, "most_objects must be a whole number"),
        ({"budget": 0.0}, ValueError, "budget must be a positive share"),
        ({"method": "gradcam"}, ValueError, "method must be one of"),
        ({"score_threshold": 2}, ValueError, "score_threshold must lie in"),
        ({"loggers": "tensorboard"}, ValueError, "loggers must be 'auto' or a list"),
    ],
)
def test_bad_arguments_are_told_before_training(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ExplanationMonitor(**{"images": scene_panel(n=1), "out": tmp_path, **change})


def test_panel_images_are_checked() -> None:
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="boxes and labels belong together"):
        PanelImage(image, boxes=[[0, 0, 5, 5]])
    with pytest.raises(ValueError, match=r"evidence must have shape \(1, 20, 30\)"):
        PanelImage(image, "a", [[0, 0, 5, 5]], [1], np.zeros((2, 20, 30), dtype=bool))
