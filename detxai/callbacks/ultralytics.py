"""Watch an ultralytics model while it trains: ``attach(yolo, ...)`` before ``yolo.train(...)``.

Its trainer and validator come to the callbacks as they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from detxai.adapters.ultralytics.checkpoint import require_ultralytics
from detxai.callbacks.first_rank import is_first_rank
from detxai.callbacks.loggers import Logger
from detxai.callbacks.loop import ExplanationMonitor
from detxai.callbacks.mistakes import KINDS, Mistake, worst_images
from detxai.callbacks.output.epoch_report import EpochReport, with_last
from detxai.callbacks.panel import PanelImage, make_panel
from detxai.callbacks.shortcut_alarm.alarm import ShortcutAlarm
from detxai.callbacks.ultralytics_images import evenly_spread, validation_images, with_annotations
from detxai.explain import Method, check_threshold, make_method
from detxai.images import Image
from detxai.runs.numbered import numbered_folders, read_about

log = logging.getLogger(__name__)

FOLDER = "detxai"  # in the folder of the run
N_IMAGES = 8  # of the validation set, where no images are given: enough for the alarm to tell, cheap enough to repeat


def attach(
    yolo: Any,
    *,
    images: Sequence[Image | PanelImage] | int | None = None,
    method: str | Method | None = None,
    every: int = 1,
    out: str | PathLike[str] | None = None,
    budget: float | None = 0.02,
    most_objects: int = 2,
    mistakes: int = 2,
    score_threshold: float = 0.25,
    alarm: ShortcutAlarm | None = ShortcutAlarm(),  # noqa: B008 (frozen)
    loggers: Sequence[Logger] | str = "auto",
) -> UltralyticsWatcher:
    """Explain a panel of images with the EMA weights at the end of every n-th epoch of ``yolo.train(...)``.

    Also the worst false positives and misses of that epoch's validation; and, after ``yolo.val(...)`` alone, both
    with the model validated. The training is the same training: see ``ExplanationMonitor``. What explaining takes
    is not charged to ``time=``. Every ``train`` and every ``val`` has a folder of its own; after ``attach``,
    ``train(resume=True)`` goes on in the folder of the training resumed.

    With several GPUs (``device="0,1"``), ultralytics trains in processes of its own and sends what is attached
    there. Only the process of rank 0 works, and finds the mistakes in its own share of the validation set; ``reports``
    stay there, the folder is the same.

    Args:
        yolo: a ``YOLO`` or ``RTDETR``, before ``train`` or ``val``.
        images: the panel; a whole number: so many images of the validation set, evenly spread; None: 8 of them.
            Annotations of the validation set are found by file name.
        method, every, budget, most_objects, score_threshold, alarm: as for ``ExplanationMonitor``. Nothing is earned
            before training starts, so ``val`` alone has no time limit.
        out: the folder; None: ``detxai`` in the folder of the run. Where it is taken, ``out2``, ``out3``, ...
        mistakes: so many false positives and so many misses; 0: none.
        loggers: as for ``ExplanationMonitor``; ultralytics' own TensorBoard, W&B and MLflow runs are among "auto".

    Returns:
        What was attached; ``reports`` holds what it saw, where training runs in this process.

    Raises:
        TypeError, ValueError, FileNotFoundError: an argument is wrong; raised before any training.
        ImportError: ultralytics is too old.
    """
    if not callable(getattr(yolo, "add_callback", None)):
        raise TypeError(f"yolo must be an ultralytics YOLO or RTDETR, got {type(yolo).__name__}")
    require_ultralytics()
    if images is None:
        images = N_IMAGES
    if isinstance(images, bool) or (isinstance(images, int) and images < 1):
        raise ValueError(f"images must be a panel of images or how many of the validation set, got {images!r}")
    if isinstance(mistakes, bool) or not isinstance(mistakes, int) or mistakes < 0:
        raise ValueError(f"mistakes must be a whole number from 0, got {mistakes!r}")
    check_threshold(score_threshold)
    if not isinstance(images, int):
        make_panel(images)  # raises now for a bad image, not in an epoch
    settings: dict[str, Any] = {
        "method": make_method(method) if method is not None else None,
        "every": every,
        "budget": budget,
        "most_objects": most_objects,
        "score_threshold": score_threshold,
        "alarm": alarm,
        "loggers": loggers,
    }
    nothing = PanelImage(torch.zeros(3, 2, 2))
    ExplanationMonitor([nothing], out=out or FOLDER, **settings)  # likewise for a bad setting
    watcher = UltralyticsWatcher(yolo, images, None if out is None else Path(out), mistakes, settings)
    for event in EVENTS:
        yolo.add_callback(event, getattr(watcher, event))
    return watcher


EVENTS = (
    "on_train_start",
    "on_train_epoch_end",
    "on_fit_epoch_end",
    "on_train_end",
    "teardown",
    "on_val_start",
    "on_val_batch_end",
    "on_val_end",
)


class UltralyticsWatcher:
    """The callbacks of one ``attach``, each named as its event.

    Attributes:
        monitor: at work since training started; None before.
        reports: what was explained, epoch by epoch, without the maps.
    """

    def __init__(
        self,
        yolo: Any,
        images: Sequence[Image | PanelImage] | int,
        out: Path | None,
        mistakes: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.monitor: ExplanationMonitor | None = None
        self.reports: list[EpochReport] = []
        self._yolo: Any = yolo
        self._images = images
        self._out = out
        self._mistakes = mistakes
        self._settings = dict(settings)
        self._training = False
        self._trained_epoch: int | None = None
        self._matches: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Without the model: ultralytics sends its callbacks to the processes of distributed training."""
        return {**self.__dict__, "_yolo": None}

    def on_train_start(self, trainer: Any) -> None:
        """The time budget counts from here."""
        self._training, self._trained_epoch, self.monitor = True, None, None
        if is_first_rank():
            with _kept_from_training(trainer):
                earlier = self._folder_of(trainer.save_dir) if trainer.start_epoch else None
                self.monitor = self._make_monitor(trainer.save_dir, trainer.test_loader.dataset, earlier)
                self.monitor.start()

    def on_train_epoch_end(self, trainer: Any) -> None:
        """Remember which epoch was trained: the final validation announces one more, which is none."""
        self._trained_epoch = trainer.epoch

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Explain with the EMA weights, which are those that are validated and saved."""
        if self.monitor is None or trainer.epoch != self._trained_epoch:
            return
        with _kept_from_training(trainer):
            report = self.monitor.step(trainer.ema.ema, trainer.epoch, mistakes=self._worst(trainer.validator))
            self.reports += [] if report is None else [report.without_maps()]
        self._matches = []  # the next epoch may go without validation

    def on_train_end(self, trainer: Any) -> None:
        """What the time budget left out of the last epoch's panel."""
        if self.monitor is not None:
            with _kept_from_training():
                self.reports = with_last(self.reports, self.monitor.finish())

    def teardown(self, trainer: Any) -> None:
        """Write the strips, also where training failed."""
        self._training = False
        if self.monitor is not None:
            self.monitor.finish(failed=True)  # else it has finished

    def on_val_start(self, validator: Any) -> None:
        """Forget the matches of the last validation."""
        self._matches = []

    def on_val_batch_end(self, validator: Any) -> None:
        """Keep the validator's own matches, at IoU 0.5, of the batch it has just done: they are gone at the end."""
        if not self._mistakes or not is_first_rank() or self._training != validator.training:
            return
        with _kept_from_training():
            stats = validator.metrics.stats
            for place in range(len(self._matches), len(stats["tp"])):
                right, scores = torch.as_tensor(stats["tp"][place]), torch.as_tensor(stats["conf"][place])
                self._matches.append((right[:, 0].bool(), scores, len(stats["target_cls"][place])))

    def on_val_end(self, validator: Any) -> None:
        """After ``yolo.val(...)`` alone: explain with the model that was validated."""
        if self._training or validator.training or not is_first_rank() or self._yolo is None:
            return
        with _kept_from_training():
            monitor = self._make_monitor(validator.save_dir, validator.dataloader.dataset, budget=None, every=1)
            report = monitor.step(self._yolo.model, 0, mistakes=self._worst(validator))
            monitor.finish()
            self.reports += [] if report is None else [report.without_maps()]

    def _out_in(self, save_dir: Path) -> Path:
        return Path(save_dir) / FOLDER if self._out is None else self._out

    def _folder_of(self, save_dir: Path) -> Path | None:
        """The newest folder of the training that goes on in ``save_dir``; None where there is none."""
        folders = numbered_folders(self._out_in(save_dir))
        if self._out is None:  # all in save_dir, wherever that has moved since
            return folders[0] if folders else None
        return next((one for one in folders if read_about(one).get("run") == str(Path(save_dir).absolute())), None)

    def _make_monitor(
        self, save_dir: Path, dataset: Any, earlier: Path | None = None, **changed: Any
    ) -> ExplanationMonitor:
        if isinstance(self._images, int):
            images = validation_images(dataset, evenly_spread(len(dataset.im_files), self._images))
        else:
            images = [with_annotations(image, dataset) for image in self._images]
        run: dict[str, Any] = {"out": earlier or self._out_in(save_dir), "resume": earlier is not None}
        return ExplanationMonitor(
            images, **run, about={"run": str(Path(save_dir).absolute())}, **{**self._settings, **changed}
        )

    def _worst(self, validator: Any) -> list[Mistake]:
        """The images with the worst mistakes of the last validation; its own matching says which."""
        if not self._matches:
            return []
        right, scores, n_objects = zip(*self._matches)
        threshold = self._settings["score_threshold"]
        false, missed = worst_images(right, scores, n_objects, most=self._mistakes, score_threshold=threshold)
        order = list(validator.dataloader.sampler)  # in distributed training, a rank sees its own share
        dataset = validator.dataloader.dataset
        return [
            Mistake(kind, item, rank, threshold)
            for kind, places in zip(KINDS, (false, missed))
            for rank, item in enumerate(validation_images(dataset, [order[place] for place in places]))
        ]


@contextmanager
def _kept_from_training(trainer: Any = None) -> Iterator[None]:
    """An exception inside is logged and training goes on; the time inside is not charged to its ``time=``."""
    start = time.time()
    try:
        yield
    except Exception:
        log.exception("explaining failed; training goes on")
    finally:
        for clock in ("train_time_start", "epoch_time_start"):
            if trainer is not None and hasattr(trainer, clock):
                setattr(trainer, clock, getattr(trainer, clock) + time.time() - start)
