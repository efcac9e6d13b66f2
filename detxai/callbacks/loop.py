"""Explain a fixed panel of images as a detector learns: for any training loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from detxai.adapters.detector import Detector
from detxai.adapters.network import module_of
from detxai.adapters.registry import wrap
from detxai.callbacks.budget import TimeBudget
from detxai.callbacks.epoch_work import EpochWork
from detxai.callbacks.first_rank import is_first_rank
from detxai.callbacks.loggers import Logger, automatic_loggers
from detxai.callbacks.mistakes import Mistake
from detxai.callbacks.output.epoch_report import EpochReport
from detxai.callbacks.output.training_folder import TrainingFolder
from detxai.callbacks.panel import PanelImage, make_panel
from detxai.callbacks.shortcut_alarm.alarm import ShortcutAlarm
from detxai.callbacks.shortcut_alarm.rounds import AlarmRounds
from detxai.callbacks.undisturbed import undisturbed
from detxai.callbacks.watched_panel import WatchedPanel
from detxai.explain import Method, check_threshold, make_method
from detxai.images import Image
from detxai.methods import AblationCAM

log = logging.getLogger(__name__)

PATIENCE = 3  # failures in a row, after which a monitor stops trying
RATIO = 0.1  # of the channels, of the default Ablation-CAM: cheap, and box-specific
TOLERANCE = 1.5  # of the time budget, from which it is told that it did not hold


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
        self.class_names = class_names
        self._out, self._about = Path(out), dict(about or {})
        self._given_loggers = None if isinstance(loggers, str) else list(loggers)
        self._loggers = self._given_loggers
        self._newest: tuple[nn.Module | Detector, int] | None = None
        self._work = EpochWork(
            self.budget,
            WatchedPanel(self.panel, self.method, most_objects, score_threshold),
            None if alarm is None else AlarmRounds(alarm, self.panel),
            self.method,
            TrainingFolder(self._out, resume=resume, about=self._about),
        )
        self._report: EpochReport | None = None
        self._finished = False
        self._failures = 0

    def __enter__(self) -> ExplanationMonitor:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.finish(failed=error is not None)

    @property
    def output(self) -> TrainingFolder:
        """What is written."""
        return self._work.output

    @property
    def folder(self) -> Path | None:
        """Where this run is written."""
        return None if self.output.epoch is None else self.output.folder

    def start(self) -> None:
        """Training starts now: the time budget counts from here. Without it, it counts from the construction."""
        if self.output.epoch is not None:
            self._start_another_run()
        self.budget.training_starts()

    def step(self, model: nn.Module | Detector, epoch: int, *, mistakes: Sequence[Mistake] = ()) -> EpochReport | None:
        """Explain the panel with the model as it is after ``epoch``.

        Args:
            model: what ``detxai.wrap`` takes: in training mode or not, wrapped for data-parallel training or not.
            epoch: counts from 0.
            mistakes: of this epoch's validation, to be explained after the panel.

        Returns:
            What was explained; None where this epoch is not an n-th one, on other ranks, or after a failure.
        """
        if not is_first_rank():
            return None
        if self._finished:
            self._start_another_run()
        if self.given_up:
            return None
        self._newest, self._report = (model, epoch), None
        self._work.panel.new_weights()
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
            All that was explained at the last epoch, in place of what ``step`` returned; None where nothing was
            missing.
        """
        if not is_first_rank() or self._finished:
            return None
        self._finished, report = True, None
        with self.budget.work():
            try:
                if not failed and not self._failures:  # what failed at the last epoch would fail again
                    report = self._explain_pending()
                self._work.write_strips(self.output.stale_strips())
                for logger in self._loggers or ():
                    logger.close()
            except Exception:
                log.exception("not all was written to %s", self.output.folder)
        self._newest = None
        if self.budget.share is not None and self.budget.spent > TOLERANCE * self.budget.earned:
            words = "explaining took %.1f s, more than the budget of %g of the training's %.1f s, which was short"
            log.warning(words, self.budget.spent, self.budget.share, self.budget.earned / self.budget.share)
        return report

    @property
    def given_up(self) -> bool:
        """True after three failures in a row."""
        return self._failures >= PATIENCE

    def _step(self, model: nn.Module | Detector, epoch: int, mistakes: Sequence[Mistake]) -> EpochReport:
        first = self.output.starts_anew
        waiting = self._work.waiting(mistakes)
        least_served = self.budget.least_served(waiting)
        if not first and not self.budget.affords(least_served):
            wait = self.budget.wait(least_served)
            log.info("the time budget allows nothing after epoch %d, but in %.1f s of training", epoch, wait)
            return EpochReport(epoch)
        work = self._work
        with self._wrapped(model) as detector:
            self.output.begin(epoch)
            with detector.borrowed():
                snapshots = work.explain_panel(detector, epoch, n_reserved=len(self.panel)) if first else []
                if first:
                    del waiting["map"]
                if not first or (waiting and self.budget.affords(self.budget.least_served(waiting))):
                    snapshots += work.do_affordable(detector, epoch, waiting)
            report = self._written(detector, EpochReport(epoch).adding(snapshots))
            for folder, n_frames in self.output.stale_strips(due=True).items():
                if self.budget.affords("strip", n_frames):
                    work.write_strips({folder: n_frames})
        for alarm in report.alarms:
            log.warning("epoch %d: %s", epoch, alarm)
        return report

    def _explain_pending(self) -> EpochReport | None:
        """At the end of training: the images of the panel that are not explained with the newest weights yet."""
        if self._newest is None or not self._work.panel.pending:
            return None
        model, epoch = self._newest
        with self._wrapped(model) as detector:
            if self.output.epoch != epoch:
                self.output.begin(epoch)
            with detector.borrowed():
                snapshots = self._work.explain_panel(detector, epoch, n_reserved=0)
            return self._written(detector, (self._report or EpochReport(epoch)).adding(snapshots))

    @contextmanager
    def _wrapped(self, model: nn.Module | Detector) -> Iterator[Detector]:
        with undisturbed(module_of(model) if isinstance(model, Detector) else model):
            yield wrap(model, class_names=self.class_names)

    def _written(self, detector: Detector, report: EpochReport) -> EpochReport:
        """The report with the alarms, after it went to files and loggers."""
        rounds = self._work.alarm_rounds
        alarms = [] if rounds is None else rounds.alarms(detector.class_names)
        report = replace(report, alarms=tuple(alarms))
        self.output.write(report)
        for logger in self._open_loggers():
            logger.log(report.epoch, *self.output.for_loggers(report))
        return report

    def _open_loggers(self) -> list[Logger]:
        if self._loggers is None:
            self._loggers = automatic_loggers(self.output.folder)
        return self._loggers

    def _start_another_run(self) -> None:
        self._work.output = TrainingFolder(self._out, about=self._about)
        self._loggers, self._finished, self._failures = self._given_loggers, False, 0
        self._newest = self._report = None
        self._work.panel.another_run()

    def _fail(self, epoch: int) -> None:
        self._failures += 1
        log.exception("explaining after epoch %d failed; training goes on", epoch)
        if self.given_up:
            log.error("explaining failed %d times in a row; no more of it in this run", PATIENCE)

    def __getstate__(self) -> dict[str, Any]:
        """Without open loggers: ultralytics sends its callbacks to the processes of distributed training."""
        return {**self.__dict__, "_loggers": None, "_newest": None}
