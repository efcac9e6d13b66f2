"""Watch what a detector looks at while it learns: for any training loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from detxai.adapters.detector import Detector
from detxai.adapters.network import module_of
from detxai.adapters.registry import wrap
from detxai.callbacks.budget import TimeBudget
from detxai.callbacks.loggers import Logger, automatic_loggers
from detxai.callbacks.measuring import Sighting
from detxai.callbacks.mistakes import Mistake, explain_mistake
from detxai.callbacks.panel import PanelImage, make_panel
from detxai.callbacks.record.epoch_report import EpochReport
from detxai.callbacks.record.record import Record
from detxai.callbacks.shortcut_alarm.alarm import ShortcutAlarm
from detxai.callbacks.shortcut_alarm.probing import Probes
from detxai.callbacks.undisturbed import undisturbed
from detxai.callbacks.watched_panel import WatchedPanel
from detxai.explain import Method, check_threshold, make_method
from detxai.images import Image
from detxai.methods import AblationCAM

log = logging.getLogger(__name__)

PATIENCE = 3  # failures in a row, after which a monitor stops trying
RATIO = 0.1  # of the channels, of the default Ablation-CAM: cheap, and box-specific
TOLERANCE = 1.5  # of the time budget, from which it is told that it did not hold

Look = Callable[[Detector], list[Sighting]]  # a piece of work


class ExplanationMonitor:
    """Explains a fixed panel of images as training goes on; the training stays the same training.

    ``step`` borrows the model: weights, gradients, modes, hooks and random states are as they were afterwards. An
    exception inside is logged under ``detxai`` and training goes on; after three steps in a row that failed, the
    monitor logs that it gives up, and does nothing any more. In distributed training only rank 0 works.

    Args:
        images: the panel: images, or ``PanelImage`` where objects (and their evidence) are known.
        out: the folder for overlays, strips, ``curves.csv``, ``classes.csv`` and ``alarms.csv``; made with the first
            epoch. Where it is there and not empty, the run goes to the first free one of ``out2``, ``out3``, ...: see
            ``folder``.
        method: a method's name or a method; None: Ablation-CAM over a tenth of the channels.
        every: explain after each n-th epoch.
        budget: the share of the training time (all that passes between two steps) that everything here may take, in
            total: maps, the alarm, mistakes, writing and logging; None: no limit. It is kept by measuring. The kinds
            of work share it evenly, and what it does not allow waits: further images, windows and mistakes for later
            epochs, or whole epochs. The whole panel is explained once after the first epoch and once after the last,
            whatever it costs: the first is paid off by waiting, the last is saved for. A training too short for that
            has these two, and ``finish`` logs a warning.
        most_objects: boxes explained on an image.
        score_threshold: of the detections, where objects are not known.
        alarm: the shortcut alarm's settings; None: no alarm, and no time for it.
        loggers: ``detxai.callbacks.loggers``; ``"auto"``: TensorBoard where installed, and the W&B and MLflow runs
            that are active.
        class_names: label -> name; default: the model's own.
        resume: go on in ``out`` itself, from the first epoch that is stepped; what the folder has of that epoch and
            later ones moves to ``superseded`` in it.
        about: entries of the folder's ``run.json``, beside the time.

    Attributes:
        folder: of this run; None before its first epoch.

    Raises:
        TypeError, ValueError, FileNotFoundError: an argument is wrong; raised before any training.

    Example:
        monitor = ExplanationMonitor(images, out="watched")
        for epoch in range(n_epochs):
            train_one_epoch(model, ...)
            monitor.step(model, epoch)
        monitor.finish()
    """

    def __init__(
        self,
        images: Sequence[Image | PanelImage],
        *,
        out: str | PathLike[str],
        method: str | Method | None = None,
        every: int = 1,
        budget: float | TimeBudget | None = 0.02,
        most_objects: int = 2,
        score_threshold: float = 0.25,
        alarm: ShortcutAlarm | None = ShortcutAlarm(),  # noqa: B008 (frozen)
        loggers: Sequence[Logger] | str = "auto",
        class_names: Mapping[int, str] | Sequence[str] | None = None,
        resume: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("every", every), ("most_objects", most_objects)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
        check_threshold(score_threshold)
        if isinstance(loggers, str) and loggers != "auto":
            raise ValueError(f"loggers must be 'auto' or a list of loggers, got {loggers!r}")
        self.panel = make_panel(images)
        self.method = make_method(method or AblationCAM(RATIO, progress=False))
        self.every = every
        self.budget = budget if isinstance(budget, TimeBudget) else TimeBudget(budget)
        self.probes = None if alarm is None else Probes(alarm, self.panel)
        self.class_names = class_names
        self._out, self._about = Path(out), dict(about or {})
        self.record = Record(self._out, resume=resume, about=self._about)
        self._given_loggers = None if isinstance(loggers, str) else list(loggers)
        self._loggers = self._given_loggers
        self._newest: tuple[nn.Module | Detector, int] | None = None
        self._watched = WatchedPanel(self.panel, self.method, most_objects, score_threshold)
        self._report: EpochReport | None = None
        self._finished = False
        self._failures = 0

    def __enter__(self) -> ExplanationMonitor:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.finish(failed=error is not None)

    @property
    def folder(self) -> Path | None:
        """Where this run is written."""
        return None if self.record.epoch is None else self.record.folder

    def start(self) -> None:
        """Training starts now: the time budget counts from here. Without it, it counts from the construction."""
        if self.record.epoch is not None:
            self._start_another_run()
        self.budget.training_starts()

    def step(self, model: nn.Module | Detector, epoch: int, *, mistakes: Sequence[Mistake] = ()) -> EpochReport | None:
        """Explain the panel with the model as it is after ``epoch``.

        Args:
            model: what ``detxai.wrap`` takes: in training mode or not, wrapped for data-parallel training or not.
            epoch: counts from 0.
            mistakes: of this epoch's validation, to be explained after the panel.

        Returns:
            What was seen; None where this epoch is none of every n-th, on other ranks, or after a failure.
        """
        if not first_rank():
            return None
        if self._finished:
            self._start_another_run()
        if self.given_up:
            return None
        self._newest, self._report = (model, epoch), None
        self._watched.new_weights()
        if (epoch + 1) % self.every:
            return None
        with self.budget.work():
            try:
                self._report = self._step(model, epoch, mistakes)
            except Exception:
                self._fail(epoch)
                return None
        self._failures = 0
        return self._report

    def finish(self, *, failed: bool = False) -> EpochReport | None:
        """After training: explain what the panel lacks of the last epoch, write every strip, close the loggers.

        Args:
            failed: the training did, or was interrupted: nothing more is explained.

        Returns:
            What was seen at the last epoch, in place of what ``step`` gave; None where nothing was lacking.
        """
        if not first_rank() or self._finished:
            return None
        self._finished, report = True, None
        with self.budget.work():
            try:
                if not failed and not self._failures:  # what failed at the last epoch would fail again
                    report = self._rest_of_panel()
                self._write_strips(self.record.stale_strips())
                for logger in self._loggers or ():
                    logger.close()
            except Exception:
                log.exception("not all was written to %s", self.record.folder)
        self._newest = None
        if self.budget.share is not None and self.budget.spent > TOLERANCE * self.budget.earned:
            words = "explaining took %.1f s, more than the budget of %g of the training's %.1f s: it was too short"
            log.warning(words, self.budget.spent, self.budget.share, self.budget.earned / self.budget.share)
        return report

    @property
    def given_up(self) -> bool:
        """True after three failures in a row."""
        return self._failures >= PATIENCE

    def _step(self, model: nn.Module | Detector, epoch: int, mistakes: Sequence[Mistake]) -> EpochReport:
        first = self.record.starts_anew
        waiting = self._waiting(mistakes)
        neediest = self.budget.neediest(waiting)
        if not first and not self.budget.affords(neediest):
            wait = self.budget.wait(neediest)
            log.info("the time budget allows nothing after epoch %d, but in %.1f s of training", epoch, wait)
            return EpochReport(epoch)
        with self._looking(model) as detector:
            self.record.begin(epoch)
            with detector.borrowed():
                seen = self._look_at_panel(detector, epoch) if first else []
                if first:
                    del waiting["map"]
                if not first or (waiting and self.budget.affords(self.budget.neediest(waiting))):
                    seen += self._look_around(detector, epoch, waiting)
            report = self._written(detector, EpochReport(epoch).adding(seen))
            for folder, n_frames in self.record.stale_strips(due=True).items():
                if self.budget.affords("strip", n_frames):
                    self._write_strips({folder: n_frames})
        for alarm in report.alarms:
            log.warning("epoch %d: %s", epoch, alarm)
        return report

    def _rest_of_panel(self) -> EpochReport | None:
        """What of the panel was not looked at with the newest weights."""
        if self._newest is None or not self._watched.unseen:
            return None
        model, epoch = self._newest
        with self._looking(model) as detector:
            if self.record.epoch != epoch:
                self.record.begin(epoch)
            with detector.borrowed():
                seen = self._look_at_panel(detector, epoch)
            return self._written(detector, (self._report or EpochReport(epoch)).adding(seen))

    @contextmanager
    def _looking(self, model: nn.Module | Detector) -> Iterator[Detector]:
        with undisturbed(module_of(model) if isinstance(model, Detector) else model):
            yield wrap(model, class_names=self.class_names)

    def _written(self, detector: Detector, report: EpochReport) -> EpochReport:
        """The report with the alarms, after it went to files and loggers."""
        alarms = [] if self.probes is None else self.probes.alarms(detector.class_names)
        report = replace(report, alarms=tuple(alarms))
        self.record.write(report)
        for logger in self._open_loggers():
            logger.log(report.epoch, *self.record.for_loggers(report))
        return report

    def _waiting(self, mistakes: Sequence[Mistake]) -> dict[str, Iterator[Look]]:
        """The work of a step, by kind."""
        looks = (partial(self._watched.look, item) for item in self._watched.images())
        waiting: dict[str, Iterator[Look]] = {"map": looks}
        if self.probes is not None:
            waiting["alarm"] = (partial(self._probe, row, item) for row, item in self.probes.pieces())
        if mistakes:
            waiting["mistake"] = (partial(explain_mistake, mistake=one, method=self.method) for one in mistakes)
        return waiting

    def _look_at_panel(self, detector: Detector, epoch: int) -> list[Sighting]:
        """All of it that was not looked at yet, whatever it costs; as much is saved for the end of training."""
        seen = []
        for item in self._watched.unseen:
            with self.budget.piece("panel"):
                seen += self._drawn(self._watched.look(item, detector), epoch)
        self.budget.owe("panel", 0 if self._finished else len(self.panel))
        return seen

    def _look_around(self, detector: Detector, epoch: int, waiting: Mapping[str, Iterator[Look]]) -> list[Sighting]:
        """As much of the work as the budget allows; what is seen is drawn at once, so that drawing is measured too."""
        seen = []
        with closing(self.budget.turns(waiting)) as looks:
            for look in looks:
                seen += self._drawn(look(detector), epoch)
                self.budget.owe("strip", sum(self.record.stale_strips().values()))
        return seen

    def _drawn(self, sightings: list[Sighting], epoch: int) -> list[Sighting]:
        for one in sightings:
            self.record.draw(one, epoch)
        return sightings

    def _probe(self, row: int, item: PanelImage, detector: Detector) -> list[Sighting]:
        if self.probes is not None:
            self.probes.look(detector, row, item)
        return []

    def _write_strips(self, frames: Mapping[Path, int]) -> None:
        for folder, n_frames in frames.items():
            with self.budget.piece("strip", n_frames):
                self.record.write_strip(folder)
        self.budget.owe("strip", sum(self.record.stale_strips().values()))

    def _open_loggers(self) -> list[Logger]:
        if self._loggers is None:
            self._loggers = automatic_loggers(self.record.folder)
        return self._loggers

    def _start_another_run(self) -> None:
        self.record = Record(self._out, about=self._about)
        self._loggers, self._finished, self._failures = self._given_loggers, False, 0
        self._newest = self._report = None
        self._watched.another_run()

    def _fail(self, epoch: int) -> None:
        self._failures += 1
        log.exception("explaining after epoch %d failed; training goes on", epoch)
        if self.given_up:
            log.error("explaining failed %d times in a row; no more of it in this run", PATIENCE)

    def __getstate__(self) -> dict[str, Any]:
        """Without open loggers: ultralytics sends its callbacks to the processes of distributed training."""
        return {**self.__dict__, "_loggers": None, "_newest": None}


def first_rank() -> bool:
    """True in the process that writes: rank 0, or the only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK", "-1")) in (-1, 0)
