"""What the shortcut alarm has measured so far, one row of windows on one image at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.callbacks.panel import PanelImage
from detxai.callbacks.shortcut_alarm.alarm import Alarm, ShortcutAlarm


class AlarmRounds:
    """The newest effect of every window on every image.

    All windows of an image cost as much as fifty detections. So a piece of this work is one row of windows on one
    image; the same row goes over all images before the next, since the alarm compares windows between images. A time
    budget that pays for a few pieces after each epoch spreads a round over several of them: each window's drop is
    from one epoch's weights, those of one image may come from different epochs.

    Args:
        alarm: its settings.
        panel: the images.
    """

    def __init__(self, alarm: ShortcutAlarm, panel: Sequence[PanelImage]) -> None:
        self.alarm = alarm
        self._round = [(row, item) for row in range(alarm.windows.n_rows) for item in panel]
        self._next = 0
        self._effects: dict[str, dict[int, Tensor]] = {}  # image -> label -> (W,)

    def pieces(self) -> Iterator[tuple[int, PanelImage]]:
        """A round of rows and images, from where the last one stopped.

        An image without a box that scores enough comes only once in a round.
        """
        silent = set()
        for _ in range(len(self._round)):
            row, item = self._round[self._next]
            self._next = (self._next + 1) % len(self._round)
            if item.name not in silent:
                yield row, item
                if item.name not in self._effects:
                    silent.add(item.name)

    def hide_row(self, detector: Detector, row: int, item: PanelImage) -> None:
        """Hide a row of windows on an image; what was measured for classes that score too little now is dropped."""
        windows = self.alarm.windows
        known, now = self._effects.pop(item.name, {}), self.alarm.window_effects(detector, item, row=row)
        for label, effects in now.items():
            kept = known.get(label, torch.full((len(windows),), torch.nan))
            kept[windows.row(row)] = effects[windows.row(row)]
            self._effects.setdefault(item.name, {})[label] = kept

    def alarms(self, names: Mapping[int, str]) -> list[Alarm]:
        """The classes that lean on a fixed place."""
        return self.alarm.judge(self._effects.values(), names)
