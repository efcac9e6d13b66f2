"""The work of one epoch: maps of the panel, windows of the alarm, mistakes and strips, each measured by the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detxai.adapters.detector import Detector
from detxai.callbacks.budget import TimeBudget
from detxai.callbacks.mistakes import Mistake, explain_mistake
from detxai.callbacks.output.training_folder import TrainingFolder
from detxai.callbacks.panel import PanelImage
from detxai.callbacks.shortcut_alarm.rounds import AlarmRounds
from detxai.callbacks.snapshot import BoxSnapshot
from detxai.callbacks.watched_panel import WatchedPanel
from detxai.explain import Method

Piece = Callable[[Detector], list[BoxSnapshot]]  # of work


@dataclass
class EpochWork:
    """What can be done after an epoch, and how it is done.

    Attributes:
        budget: the account that pays for it.
        panel: the images watched.
        alarm_rounds: of the shortcut alarm; None: no alarm.
        method: explains mistakes.
        output: where everything is drawn.
    """

    budget: TimeBudget
    panel: WatchedPanel
    alarm_rounds: AlarmRounds | None
    method: Method
    output: TrainingFolder

    def waiting(self, mistakes: Sequence[Mistake]) -> dict[str, Iterator[Piece]]:
        """Kind of work -> its pieces."""
        maps: Iterator[Piece] = (partial(self.panel.explain, item) for item in self.panel.in_turn())
        waiting = {"map": maps}
        if self.alarm_rounds is not None:
            rounds = self.alarm_rounds
            waiting["alarm"] = (partial(_hide_row, rounds, row, item) for row, item in rounds.pieces())
        if mistakes:
            waiting["mistake"] = (partial(explain_mistake, mistake=one, method=self.method) for one in mistakes)
        return waiting

    def explain_panel(self, detector: Detector, epoch: int, *, n_reserved: int) -> list[BoxSnapshot]:
        """Explain every pending image of the panel, whatever it costs.

        Args:
            detector: as it is after the epoch.
            epoch: its number.
            n_reserved: so many images will have to be explained at the end of training: their time is kept back.
        """
        snapshots = []
        for item in self.panel.pending:
            with self.budget.piece("panel"):
                snapshots += self._drawn(self.panel.explain(item, detector), epoch)
        self.budget.reserve("panel", n_reserved)
        return snapshots

    def do_affordable(
        self, detector: Detector, epoch: int, waiting: Mapping[str, Iterator[Piece]]
    ) -> list[BoxSnapshot]:
        """As much of the work as the budget allows; each piece is drawn at once, so that drawing is measured too."""
        snapshots = []
        with closing(self.budget.schedule(waiting)) as pieces:
            for piece in pieces:
                snapshots += self._drawn(piece(detector), epoch)
                self._reserve_strips()
        return snapshots

    def write_strips(self, frames: Mapping[Path, int]) -> None:
        """Write the strips of these folders, each of so many frames."""
        for folder, n_frames in frames.items():
            with self.budget.piece("strip", n_frames):
                self.output.write_strip(folder)
        self._reserve_strips()

    def _reserve_strips(self) -> None:
        self.budget.reserve("strip", sum(self.output.stale_strips().values()))

    def _drawn(self, snapshots: list[BoxSnapshot], epoch: int) -> list[BoxSnapshot]:
        for one in snapshots:
            self.output.draw(one, epoch)
        return snapshots


def _hide_row(rounds: AlarmRounds, row: int, item: PanelImage, detector: Detector) -> list[BoxSnapshot]:
    rounds.hide_row(detector, row, item)
    return []
