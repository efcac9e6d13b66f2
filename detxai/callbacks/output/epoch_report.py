"""What was explained at one epoch of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from detxai.callbacks.shortcut_alarm.alarm import Alarm
from detxai.callbacks.snapshot import BoxSnapshot


@dataclass(frozen=True)
class EpochReport:
    """What was explained at one epoch.

    Attributes:
        epoch: its number.
        snapshots: the boxes of the panel that the time budget allowed.
        alarms: the classes that depend on a fixed place outside their boxes.
        mistakes: the mistakes explained.
    """

    epoch: int
    snapshots: tuple[BoxSnapshot, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    mistakes: tuple[BoxSnapshot, ...] = ()

    def adding(self, snapshots: Sequence[BoxSnapshot]) -> EpochReport:
        """The same with more of the panel and more mistakes."""
        panel = tuple(one for one in snapshots if one.kind == "panel")
        mistakes = tuple(one for one in snapshots if one.kind != "panel")
        return replace(self, snapshots=self.snapshots + panel, mistakes=self.mistakes + mistakes)

    def without_maps(self) -> EpochReport:
        """The same, small enough to be kept for the whole training."""
        panel, mistakes = (
            tuple(replace(one, explanation=None) for one in some) for some in (self.snapshots, self.mistakes)
        )
        return replace(self, snapshots=panel, mistakes=mistakes)


def with_last(reports: Sequence[EpochReport], last: EpochReport | None) -> list[EpochReport]:
    """The reports with one more, in place of that of the same epoch, and without its maps."""
    if last is None:
        return list(reports)
    return [*(one for one in reports if one.epoch != last.epoch), last.without_maps()]
