"""The alarm's work is spread over epochs: in pieces it finds what it finds at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_rcnns import small_faster_rcnn
from small_trainings import scene_panel

from detxai.adapters.registry import wrap
from detxai.callbacks.budget import TimeBudget
from detxai.callbacks.loop import ExplanationMonitor
from detxai.callbacks.panel import make_panel
from detxai.callbacks.shortcut_alarm.alarm import ShortcutAlarm
from detxai.callbacks.shortcut_alarm.rounds import AlarmRounds
from detxai.callbacks.shortcut_alarm.windows import Windows
from detxai.scenes import CLASS_NAMES, generate
from detxai.scenes.detectors.frcnn import load_frcnn

COARSE = ShortcutAlarm(Windows(cells=3, span=1), least_score=1e-4)


def test_rows_put_together_are_the_whole() -> None:
    panel, detector = make_panel(scene_panel(n=2)), wrap(small_faster_rcnn(n_classes=11))
    rounds = AlarmRounds(COARSE, panel)
    for row, item in rounds.pieces():
        rounds.hide_row(detector, row, item)
    for item in panel:
        whole = COARSE.window_effects(detector, item)
        assert whole.keys() == rounds._effects[item.name].keys()
        for label, effects in whole.items():
            torch.testing.assert_close(rounds._effects[item.name][label], effects, equal_nan=True)


def test_a_row_goes_over_all_images_and_a_round_goes_on_where_it_stopped() -> None:
    panel, detector = make_panel(scene_panel(n=2)), wrap(small_faster_rcnn(n_classes=11))
    rounds = AlarmRounds(COARSE, panel)
    seen = []
    for most in (1, 4, 6):  # a budget's pieces of three epochs
        for _, (row, item) in zip(range(most), rounds.pieces()):
            rounds.hide_row(detector, row, item)
            seen.append((row, panel.index(item)))
    a_round = [(row, image) for row in range(3) for image in range(2)]
    assert seen == (a_round * 2)[: len(seen)]


def test_what_is_no_longer_known_is_forgotten_and_asked_but_once() -> None:
    panel, detector = make_panel(scene_panel(n=2)), wrap(small_faster_rcnn(n_classes=11))
    rounds = AlarmRounds(COARSE, panel)
    for row, item in rounds.pieces():
        rounds.hide_row(detector, row, item)
    assert rounds._effects
    rounds.alarm = ShortcutAlarm(COARSE.windows, least_score=0.999)
    asked = 0
    for row, item in rounds.pieces():
        rounds.hide_row(detector, row, item)
        asked += 1
    assert asked == 2
    assert rounds._effects == {}


@dataclass(frozen=True)
class TimedAlarm(ShortcutAlarm):
    """Each piece takes a told second."""

    now: list[float] = field(default_factory=lambda: [0.0])

    def window_effects(self, *arguments: Any, **settings: Any) -> dict[int, torch.Tensor]:
        self.now[0] += 1.0
        return super().window_effects(*arguments, **settings)


@pytest.mark.slow
def test_with_two_pieces_an_epoch_it_rings_all_the_same(tmp_path: Path) -> None:
    """The recorded checkpoint that learned the watermark, at the end of epoch after epoch."""
    now = [0.0]
    seeds = [seed for seed in range(700, 740) if CLASS_NAMES.index("gem-upright") in generate(seed, "shortcut").labels]
    panel = [item for seed in seeds[:6] for item in scene_panel("shortcut", seed, 1)]
    alarm = TimedAlarm(Windows(cells=3, span=1), now=now)
    budget = TimeBudget(0.02, clock=lambda: now[0])
    names = ("background", *CLASS_NAMES)
    settings: dict[str, Any] = {"method": "eigen_cam", "most_objects": 1, "loggers": [], "class_names": names}
    monitor = ExplanationMonitor(panel, out=tmp_path, budget=budget, alarm=alarm, **settings)
    monitor.start()
    model = load_frcnn()
    rung = []
    for epoch in range(12):
        now[0] += 105.0  # earns two pieces and a little
        report = monitor.step(model, epoch)
        assert report is not None
        rung.append([one.name for one in report.alarms])
    assert rung[:6] == [[]] * 6  # rows from the top: the watermark's is not looked at yet, or not in six images
    assert rung[-1] == ["gem-upright"]
    assert budget.spent == pytest.approx(24, abs=1)
    assert budget.spent <= budget.earned
