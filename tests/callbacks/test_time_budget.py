"""Explaining takes the share of the training time that it was given."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_rcnns import small_faster_rcnn
from small_trainings import scene_panel, train_in_a_plain_loop

from detxai import EigenCAM
from detxai.callbacks.budget import TimeBudget
from detxai.callbacks.loop import ExplanationMonitor

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
    seen = []
    for epoch in range(8):
        clock.now += 40.0  # earns 0.8 seconds
        report = monitor.step(model, epoch)
        assert report is not None
        seen.append([one.image for one in report.sightings])
    assert budget.earned == pytest.approx(8 * 0.8)
    assert budget.spent == pytest.approx(sum(map(len, seen)) * seconds)
    assert budget.spent <= budget.earned * FACTOR
    assert max(map(len, seen)) == most_images
    assert budget.spent >= budget.earned / FACTOR  # there is more to explain than time for it
    assert {image for images in seen for image in images} == {item.name for item in monitor.panel}  # all had a turn


@pytest.mark.slow
def test_the_default_share_holds_in_a_real_training(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plain = time.perf_counter()
    train_in_a_plain_loop(lambda model, epoch: None, n_epochs=120)
    plain = time.perf_counter() - plain
    # without the alarm, whose probe of one image takes as long as half of what a training of a minute earns
    monitor = ExplanationMonitor(scene_panel(n=8), out=tmp_path, loggers=[], alarm=None)
    monitor.start()
    watched = time.perf_counter()
    train_in_a_plain_loop(monitor.step, n_epochs=120)
    monitor.finish()
    watched = time.perf_counter() - watched
    spent = monitor.budget.spent
    told = f"training alone {plain:.1f} s, watched {watched:.1f} s, of which explaining {spent:.2f} s"
    assert 0.02 / FACTOR <= spent / (watched - spent) <= 0.02 * FACTOR, told
