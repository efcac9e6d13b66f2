"""Explaining takes the share of the training time that it was given, and no more."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from faster_rcnns import small_faster_rcnn
from small_trainings import scene_panel, train_in_a_plain_loop

from detxai import EigenCAM
from detxai.callbacks.budget import TimeBudget
from detxai.callbacks.loop import ExplanationMonitor
from detxai.callbacks.output.epoch_csv import read_csv
from detxai.callbacks.output.filmstrip import frames_of
from detxai.callbacks.shortcut_alarm.alarm import ShortcutAlarm

FACTOR = 1.5


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """EigenCAM that takes a told time."""

    name, asks_about_boxes = "timed", False

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds

    def __call__(self, *arguments: Any) -> Any:
        self.clock.now += self.seconds
        return EigenCAM()(*arguments)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("cost", [0.01, 0.3, 5.0])
def test_the_share_holds_for_cheap_and_dear_work(share: float, cost: float) -> None:
    clock = Clock()
    budget = TimeBudget(share, clock=clock)
    trained = 0.0
    done = 0
    for _ in range(200):
        trained += 10.0
        clock.now += 10.0
        with budget.work():
            while budget.affords("image"):
                with budget.piece("image"):
                    clock.now += cost
                done += 1
    assert budget.spent == pytest.approx(done * cost)
    assert budget.earned == pytest.approx(share * trained)
    assert share * trained - cost <= budget.spent <= share * trained + cost


def test_costs_that_rise_are_noticed() -> None:
    clock = Clock()
    budget = TimeBudget(0.1, clock=clock)
    for epoch in range(100):
        clock.now += 10.0
        with budget.work():
            while budget.affords("image"):
                with budget.piece("image"):
                    clock.now += 0.1 * (1 + epoch / 10)
    assert budget.earned / FACTOR <= budget.spent <= budget.earned * FACTOR


def test_overdrawn_time_is_paid_back_by_waiting() -> None:
    clock = Clock()
    budget = TimeBudget(0.1, clock=clock)
    worked = []
    for _ in range(10):
        clock.now += 10.0
        with budget.work():
            worked.append(budget.affords("image"))
            if worked[-1]:
                with budget.piece("image"):
                    clock.now += 3.0
    assert worked == [True, False, False, False, False, False, True, False, False, True]


def test_no_limit_and_bad_shares() -> None:
    assert TimeBudget(None).affords("anything")
    for share in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="budget must be a positive share"):
            TimeBudget(share)


@pytest.mark.parametrize(("seconds", "most_images"), [(0.3, 3), (1.5, 1)])
def test_a_monitor_keeps_the_default_share(tmp_path: Path, seconds: float, most_images: int) -> None:
    """A real detector is really explained; the clock is told how long that and the training in between took."""
    clock = Clock()
    budget = TimeBudget(clock=clock)
    assert budget.share == 0.02
    settings: dict[str, Any] = {"method": Timed(clock, seconds), "alarm": None, "loggers": [], "most_objects": 1}
    monitor = ExplanationMonitor(scene_panel(n=3), out=tmp_path, budget=budget, **settings)
    monitor.start()
    model = small_faster_rcnn(n_classes=11)
    seen, n_epochs = [], 30
    for epoch in range(n_epochs):
        clock.now += 40.0  # earns 0.8 seconds
        report = monitor.step(model, epoch)
        assert report is not None
        seen.append([one.image for one in report.snapshots])
    last = monitor.finish()
    assert last is None or last.epoch == n_epochs - 1
    whole = [item.name for item in monitor.panel]
    assert seen[0] == whole
    assert sorted(seen[-1] if last is None else [one.image for one in last.snapshots]) == whole
    assert max(map(len, seen[1:])) == most_images
    assert budget.earned == pytest.approx(n_epochs * 0.8)
    assert budget.earned / FACTOR <= budget.spent <= budget.earned * FACTOR  # there is more to explain than time for it
    assert {image for images in seen[1:] for image in images} == set(whole)  # all had a turn


def test_dear_work_gets_as_much_time_as_cheap_work() -> None:
    clock = Clock()
    budget = TimeBudget(0.1, clock=clock)
    costs = {"map": 0.5, "alarm": 3.0, "mistake": 0.1}
    had = dict.fromkeys(costs, 0.0)
    for _ in range(300):
        clock.now += 10.0  # earns a second: dear work has to be saved for
        with budget.work():
            for kind in budget.schedule({kind: [kind] * 20 for kind in costs}):
                clock.now += costs[kind]
                had[kind] += costs[kind]
    assert sum(had.values()) == pytest.approx(300, abs=3)
    assert max(had.values()) - min(had.values()) <= 3


def test_work_that_runs_out_leaves_its_time_to_the_others() -> None:
    clock = Clock()
    budget = TimeBudget(0.1, clock=clock)
    clock.now += 100.0
    done = []
    with budget.work():
        for kind in budget.schedule({"map": ["map"] * 99, "alarm": ["alarm"], "mistake": []}):
            clock.now += 1.0
            done.append(kind)
    assert sorted(done) == ["alarm"] + ["map"] * 8  # the tenth second is not there before the work is over
    with TimeBudget(None).work():
        assert len(list(TimeBudget(None).schedule({"map": [1, 2, 3], "alarm": [4]}))) == 4


def test_what_is_owed_at_the_end_is_kept_back() -> None:
    clock = Clock()
    budget = TimeBudget(0.1, clock=clock)
    clock.now += 100.0  # 10 seconds
    with budget.work():
        with budget.piece("strip", units=4):
            clock.now += 2.0
        with budget.piece("map"):
            clock.now += 3.0
        assert budget.affords("map")
        budget.reserve("strip", 4)
        assert not budget.affords("map")  # 5 spent, 3 for the map, 2 owed: nothing would be left
        assert budget.affords("strip", 4)  # what was kept back for it pays for it
        assert not budget.affords("strip", 10)
        assert budget.wait("map") == pytest.approx(0.0)


@contextmanager
def surrounded(clock: Clock, budget: TimeBudget, seconds: float) -> Iterator[None]:
    with budget.work():
        clock.now += seconds / 2
        yield
        clock.now += seconds / 2


def test_what_surrounds_the_pieces_is_paid_for_too() -> None:
    clock = Clock()
    budget = TimeBudget(0.1, clock=clock)
    worked = 0
    for _ in range(100):
        clock.now += 10.0
        with budget.work():
            ready = budget.affords("map")
        if ready:
            with surrounded(clock, budget, 0.8):
                for _piece in budget.schedule({"map": range(9)}):
                    clock.now += 1.0
                    worked += 1
    assert budget.spent == pytest.approx(budget.earned, abs=2)
    assert worked >= 50  # each time it begins, it gets something done


def test_a_piece_that_fails_costs_what_it_took() -> None:
    clock = Clock()
    budget = TimeBudget(0.1, clock=clock)
    clock.now += 100.0

    def fail() -> None:
        with budget.work():
            for _ in budget.schedule({"map": [1]}):
                clock.now += 4.0
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    clock.now += 30.0
    assert budget.spent == 4.0
    with budget.work():
        assert budget.affords("map")  # 13 earned, 4 spent, 4 to spend: the training since was not its cost


def test_a_training_of_seconds_shows_the_panel_at_its_first_and_last_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    budget = TimeBudget(0.02, clock=clock)
    method = Timed(clock, 5.0)
    settings: dict[str, Any] = {"method": method, "loggers": [], "alarm": None, "most_objects": 1}
    monitor = ExplanationMonitor(scene_panel(n=3), out=tmp_path, budget=budget, **settings)
    monitor.start()
    model = small_faster_rcnn(n_classes=11)
    with caplog.at_level(logging.INFO, "detxai"):
        for epoch in range(4):
            clock.now += 10.0  # earns 0.2 seconds
            monitor.step(model, epoch)
        last = monitor.finish()
    assert last is not None
    assert (last.epoch, len(last.snapshots)) == (3, 3)
    assert [row["epoch"] for row in read_csv(tmp_path / "curves.csv")] == ["0"] * 3 + ["3"] * 3
    for strip in ("00_scene_40-0", "01_scene_41-0", "02_scene_42-0"):
        assert list(frames_of(tmp_path / "panel" / strip)) == [0, 3]
        assert PIL.Image.open(tmp_path / "panel" / f"{strip}.gif").n_frames == 2
    assert "the time budget allows nothing after epoch 1, but in 1480.0 s of training" in caplog.text
    assert "explaining took 30.0 s, more than the budget of 0.02 of the training's 40.0 s" in caplog.text


def test_a_last_epoch_of_which_some_was_seen_gets_the_rest(tmp_path: Path) -> None:
    clock = Clock()
    budget = TimeBudget(0.02, clock=clock)
    settings: dict[str, Any] = {"method": Timed(clock, 1.0), "loggers": [], "alarm": None, "most_objects": 1}
    monitor = ExplanationMonitor(scene_panel(n=3), out=tmp_path, budget=budget, **settings)
    monitor.start()
    model = small_faster_rcnn(n_classes=11)
    for epoch, seconds in enumerate((10.0, 340.0)):  # pays for both whole panels and an image
        clock.now += seconds
        report = monitor.step(model, epoch)
    assert report is not None
    assert 0 < len(report.snapshots) < 3
    last = monitor.finish()
    assert last is not None
    assert sorted(one.image for one in last.snapshots) == [item.name for item in monitor.panel]
    assert [row["epoch"] for row in read_csv(tmp_path / "curves.csv")] == ["0"] * 3 + ["1"] * 3
    classes = read_csv(tmp_path / "classes.csv")
    assert sum(int(row["n_objects"]) for row in classes if row["epoch"] == "1") == 3
    assert monitor.finish() is None  # once is enough


def test_a_training_that_failed_or_was_interrupted_explains_no_more(tmp_path: Path) -> None:
    clock = Clock()
    budget = TimeBudget(0.02, clock=clock)
    settings: dict[str, Any] = {"method": Timed(clock, 5.0), "loggers": [], "alarm": None, "most_objects": 1}

    def train() -> None:
        with ExplanationMonitor(scene_panel(n=2), out=tmp_path, budget=budget, **settings) as monitor:
            for epoch in range(3):
                clock.now += 10.0
                monitor.step(small_faster_rcnn(n_classes=11), epoch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert {row["epoch"] for row in read_csv(tmp_path / "curves.csv")} == {"0"}
    assert len(list((tmp_path / "panel").glob("*.png"))) == 2  # the strips are written


@pytest.mark.slow
@pytest.mark.parametrize("alarm", [None, ShortcutAlarm(least_score=1e-4)], ids=["maps", "maps and alarm"])
def test_the_default_share_holds_in_a_real_training(tmp_path: Path, alarm: ShortcutAlarm | None) -> None:
    """Half a minute of training, in this process's own seconds: what else the machine does is no matter.

    The alarm is on for classes that score next to nothing, so that it has much to do.
    """
    torch.set_num_threads(1)
    clock = time.process_time
    monitor = ExplanationMonitor(
        scene_panel(n=3), out=tmp_path, loggers=[], alarm=alarm, budget=TimeBudget(clock=clock)
    )
    explaining, n_seen = 0.0, 0

    def watch(model: Any, epoch: int) -> None:
        nonlocal explaining, n_seen
        since = clock()
        report = monitor.step(model, epoch)
        explaining += clock() - since
        n_seen += len(report.snapshots) if report else 0

    start = clock()
    monitor.start()
    train_in_a_plain_loop(watch, n_epochs=60)
    since = clock()
    monitor.finish()
    explaining += clock() - since
    training = clock() - start - explaining
    told = f"training {training:.1f} s, explaining {explaining:.2f} s, {n_seen} boxes seen"
    assert 0.02 / FACTOR <= explaining / training <= 0.02 * FACTOR, told
    assert n_seen >= 3, told
    folders = [path for path in (tmp_path / "panel").iterdir() if path.is_dir()]
    assert len(list((tmp_path / "panel").glob("*.gif"))) == len(folders), told
