"""Watch what a detector looks at while it learns: for any training loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from detxai.adapters.adapter import Adapter
from detxai.adapters.registry import wrap
from detxai.callbacks.alarm import Alarm, ShortcutAlarm
from detxai.callbacks.budget import TimeBudget
from detxai.callbacks.loggers import Logger, automatic_loggers
from detxai.callbacks.measuring import Sighting, measures_of, small
from detxai.callbacks.mistakes import Mistake, explain_mistake
from detxai.callbacks.panel import PanelImage, make_panel, questions
from detxai.callbacks.probing import Probes
from detxai.callbacks.record import Record
from detxai.callbacks.undisturbed import undisturbed
from detxai.detections import Detections
from detxai.explain import Method, check_threshold, explain, make_method
from detxai.images import Image
from detxai.methods import AblationCAM

log = logging.getLogger(__name__)

PATIENCE = 3  # failures in a row, after which a monitor stops trying
RATIO = 0.1  # of the channels, of the default Ablation-CAM: cheap, and box-specific
TOLERANCE = 1.5  # of the time budget, from which it is told that it did not hold

Look = Callable[[Adapter], list[Sighting]]  # a piece of work


@dataclass(frozen=True)
class EpochReport:
    """What was seen at one epoch.

    Attributes:
        epoch: its number.
        sightings: the boxes of the panel that the time budget allowed.
        alarms: the classes that lean on a fixed place outside their boxes.
        mistakes: the mistakes explained.
    """

    epoch: int
    sightings: tuple[Sighting, ...]
    alarms: tuple[Alarm, ...] = ()
    mistakes: tuple[Sighting, ...] = ()

    def without_maps(self) -> EpochReport:
        """The same, small enough to be kept for the whole training."""
        panel, mistakes = (
            tuple(replace(one, explanation=None) for one in seen) for seen in (self.sightings, self.mistakes)
        )
        return replace(self, sightings=panel, mistakes=mistakes)


class ExplanationMonitor:
    """Explains a fixed panel of images as training goes on; the training stays the same training.

    ``step`` borrows the model: weights, gradients, modes, hooks and random states are as they were afterwards. An
    exception inside is logged under ``detxai`` and training goes on; after three steps in a row that failed, the
    monitor logs that it gives up, and does nothing any more. In distributed training only rank 0 works.

    Args:
        images: the panel: images, or ``PanelImage`` where objects (and their evidence) are known.
        out: the folder for overlays, strips, ``curves.csv``, ``classes.csv`` and ``alarms.csv``; made if absent.
            A folder of an earlier run goes on from the first epoch that is stepped.
        method: a method's name or a method; None: Ablation-CAM over a tenth of the channels.
        every: explain after each n-th epoch.
        budget: the share of the training time (all that passes between two steps) that everything here may take, in
            total: maps, the alarm, mistakes, writing and logging; None: no limit. It is kept by measuring. The kinds
            of work share it evenly, and what it does not allow waits: further images, windows and mistakes for later
            epochs, or whole epochs. The first map comes after the first epoch, whatever it costs, and is paid off by
            waiting; a training too short for that has this one map, and ``finish`` logs a warning.
        most_objects: boxes explained on an image.
        score_threshold: of the detections, where objects are not known.
        alarm: the shortcut alarm's settings; None: no alarm, and no time for it.
        loggers: ``detxai.callbacks.loggers``; ``"auto"``: TensorBoard where installed, and the W&B and MLflow runs
            that are active.
        class_names: label -> name; default: the model's own.

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
        self.most_objects = most_objects
        self.score_threshold = score_threshold
        self.probes = None if alarm is None else Probes(alarm, self.panel)
        self.class_names = class_names
        self.record = Record(Path(out))
        self._loggers: list[Logger] | None = None if isinstance(loggers, str) else list(loggers)
        self._before: dict[tuple[str, int], tuple[Detections, Tensor]] = {}
        self._turn = 0
        self._alone = False
        self._failures = 0

    def __enter__(self) -> ExplanationMonitor:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.finish()

    def start(self) -> None:
        """Training starts now: the time budget counts from here. Without it, it counts from the construction."""
        self.budget.training_starts()

    def step(self, model: nn.Module | Adapter, epoch: int, *, mistakes: Sequence[Mistake] = ()) -> EpochReport | None:
        """Explain the panel with the model as it is after ``epoch``.

        Args:
            model: what ``detxai.wrap`` takes: in training mode or not, wrapped for data-parallel training or not.
            epoch: counts from 0.
            mistakes: of this epoch's validation, to be explained after the panel.

        Returns:
            What was seen; None where this epoch is none of every n-th, on other ranks, or after a failure.
        """
        if self.given_up or (epoch + 1) % self.every or not first_rank():
            return None
        with self.budget.work():
            try:
                report = self._step(model, epoch, mistakes)
            except Exception:
                self._fail(epoch)
                return None
        self._failures = 0
        return report

    def finish(self) -> None:
        """Write every strip once more and close the loggers; after training."""
        if not first_rank():
            return
        with self.budget.work():
            try:
                self._write_strips(self.record.stale_strips())
                for logger in self._loggers or ():
                    logger.close()
            except Exception:
                log.exception("the strips in %s were not written", self.record.folder)
        if self.budget.share is not None and self.budget.spent > TOLERANCE * self.budget.earned:
            words = "explaining took %.1f s, more than the budget of %g of the training's %.1f s: it was too short"
            log.warning(words, self.budget.spent, self.budget.share, self.budget.earned / self.budget.share)

    @property
    def given_up(self) -> bool:
        """True after three failures in a row."""
        return self._failures >= PATIENCE

    def _step(self, model: nn.Module | Adapter, epoch: int, mistakes: Sequence[Mistake]) -> EpochReport:
        waiting = self._waiting(mistakes)
        neediest = self.budget.neediest(waiting)
        if not self.budget.affords(neediest):
            wait = self.budget.wait(neediest)
            log.info("the time budget allows nothing after epoch %d, but in %.1f s of training", epoch, wait)
            return EpochReport(epoch, ())
        network = model.model if isinstance(model, Adapter) else model
        with undisturbed(network):
            detector = wrap(model, class_names=self.class_names)
            self.record.begin(epoch)
            with detector.borrowed():
                seen = self._look_around(detector, epoch, waiting)
            alarms = [] if self.probes is None else self.probes.alarms(detector.class_names)
            panel = tuple(one for one in seen if one.kind == "panel")
            report = EpochReport(epoch, panel, tuple(alarms), tuple(one for one in seen if one.kind != "panel"))
            self.record.write(report)
            for logger in self._open_loggers():
                logger.log(epoch, *self.record.for_loggers(report))
            for folder, n_frames in self.record.stale_strips(due=True).items():
                if self.budget.affords("strip", n_frames):
                    self._write_strips({folder: n_frames})
        for alarm in alarms:
            log.warning("epoch %d: %s", epoch, alarm)
        return report

    def _waiting(self, mistakes: Sequence[Mistake]) -> dict[str, Iterator[Look]]:
        """The work of a step, by kind."""
        waiting: dict[str, Iterator[Look]] = {"map": (partial(self._look, item) for item in self._images())}
        if self.probes is not None:
            waiting["alarm"] = (partial(self._probe, row, item) for row, item in self.probes.pieces())
        if mistakes:
            waiting["mistake"] = (partial(explain_mistake, mistake=one, method=self.method) for one in mistakes)
        return waiting

    def _look_around(self, detector: Adapter, epoch: int, waiting: Mapping[str, Iterator[Look]]) -> list[Sighting]:
        """As much of the work as the budget allows; what is seen is drawn at once, so that drawing is measured too."""
        seen = []
        with closing(self.budget.turns(waiting)) as looks:
            for look in looks:
                for one in look(detector):
                    self.record.draw(one, epoch)
                    seen.append(one)
                self.budget.owe("strip", sum(self.record.stale_strips().values()))
        return seen

    def _images(self) -> Iterator[PanelImage]:
        """The panel: the first image first, so that its strip is whole, the others in turn.

        Where the budget reaches no further than the first image, the others come first the next time.
        """
        first, others = self.panel[:1], self.panel[1:]
        turned = others[self._turn :] + others[: self._turn]
        for place, item in enumerate(turned + first if self._alone else first + turned):
            self._alone = place == 0 and item is first[0] and bool(others)
            if item is not first[0]:
                self._turn = (self._turn + 1) % len(others)
            yield item

    def _look(self, item: PanelImage, detector: Adapter) -> list[Sighting]:
        asked = questions(detector, item, most=self.most_objects, score_threshold=self.score_threshold)
        if not len(asked):
            return []
        explanations = explain(detector, item.pixels, self.method, asked)
        explanations *= len(asked) if not self.method.asks_about_boxes else 1
        sightings = []
        for place, explanation in enumerate(explanations):
            evidence = None if item.evidence is None else torch.as_tensor(item.evidence)[place]
            before = self._before.get((item.name, place))
            measures = measures_of(explanation, asked[place], evidence, before)
            sightings.append(Sighting(item.name, place, asked[place], explanation, measures))
            self._before[item.name, place] = asked[place], small(explanation.values)
        return sightings

    def _probe(self, row: int, item: PanelImage, detector: Adapter) -> list[Sighting]:
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

    def _fail(self, epoch: int) -> None:
        self._failures += 1
        log.exception("explaining after epoch %d failed; training goes on", epoch)
        if self.given_up:
            log.error("explaining failed %d times in a row; no more of it in this run", PATIENCE)

    def __getstate__(self) -> dict[str, Any]:
        """Without open loggers: ultralytics sends its callbacks to the processes of distributed training."""
        return {**self.__dict__, "_loggers": None}


def first_rank() -> bool:
    """True in the process that writes: rank 0, or the only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK", "-1")) in (-1, 0)
