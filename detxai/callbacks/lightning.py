"""Watch a detector inside a LightningModule while it trains: ``Trainer(callbacks=[ExplanationCallback(images)])``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from detxai.adapters.network import module_of
from detxai.adapters.registry import wrap
from detxai.callbacks.loggers import Logger, TensorBoardLogger, WandbLogger
from detxai.callbacks.loop import ExplanationMonitor
from detxai.callbacks.output.epoch_report import EpochReport, with_last
from detxai.callbacks.panel import PanelImage, make_panel
from detxai.images import Image
from detxai.runs.numbered import numbered_folders

FOLDER = "detxai"  # in the trainer's default root folder


class ExplanationCallback(Callback):
    """Explains a panel of images at the end of every n-th training epoch, after its validation.

    The training is the same training: see ``ExplanationMonitor``. Only the process of rank 0 works. Every fit has a
    folder of its own; ``fit(ckpt_path=...)`` goes on in the folder of the run that wrote the checkpoint.

    Args:
        images: the panel: images, or ``PanelImage`` where objects (and their evidence) are known.
        detector: from the LightningModule to the detector in it, where it has several or hides it; None: the first
            of its modules that ``detxai.wrap`` takes.
        out: the folder; None: ``detxai`` in the trainer's ``default_root_dir``. Where it is taken, ``out2``, ...
        loggers: as for ``ExplanationMonitor``; the trainer's own TensorBoard and W&B loggers are among "auto".
        settings: further arguments of ``ExplanationMonitor``: ``method``, ``every``, ``budget``, ``most_objects``,
            ``score_threshold``, ``alarm``, ``class_names``.

    Attributes:
        monitor: at work since training started; None before.
        reports: what was explained, epoch by epoch, without the maps.

    Raises:
        TypeError, ValueError, FileNotFoundError: an argument is wrong; raised before any training.
    """

    def __init__(
        self,
        images: Sequence[Image | PanelImage],
        *,
        detector: Callable[[LightningModule], nn.Module] | None = None,
        out: str | PathLike[str] | None = None,
        loggers: Sequence[Logger] | str = "auto",
        **settings: Any,
    ) -> None:
        super().__init__()
        if "resume" in settings:
            raise TypeError("resume is no setting here: fit(ckpt_path=...) goes on in the folder of its run")
        ExplanationMonitor(images, out=out or FOLDER, loggers=loggers, **settings)  # raises for what is wrong
        make_panel(images)
        self.monitor: ExplanationMonitor | None = None
        self.reports: list[EpochReport] = []
        self._images = list(images)
        self._detector = detector or first_detector
        self._out = out
        self._loggers = loggers
        self._settings = settings
        self._name: str | None = None  # of the folder of the run that a checkpoint, or the last fit, belongs to

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The time budget counts from here.

        Raises:
            TypeError: there is no detector in the module.
        """
        self._detector(pl_module)
        out = (Path(trainer.default_root_dir) / FOLDER if self._out is None else Path(self._out)).absolute()
        earlier = None if self._name is None or not trainer.current_epoch else out.with_name(self._name)
        resume = earlier in numbered_folders(out)
        loggers = self._loggers
        if loggers == "auto" and trainer.is_global_zero:
            loggers = _trainers_loggers(trainer) or "auto"
        folder = earlier if resume and earlier is not None else out
        self.monitor = ExplanationMonitor(self._images, out=folder, loggers=loggers, resume=resume, **self._settings)
        self.monitor.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain with the weights as they are now."""
        if self.monitor is None or not trainer.is_global_zero:
            return
        report = self.monitor.step(self._detector(pl_module), trainer.current_epoch)
        self._name = None if self.monitor.folder is None else self.monitor.folder.name
        self.reports += [] if report is None else [report.without_maps()]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the time budget left out of the last epoch's panel."""
        if self.monitor is not None and trainer.is_global_zero:
            self.reports = with_last(self.reports, self.monitor.finish())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the name of the run's folder."""
        return {"folder": self._name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The name of the folder of the run that goes on."""
        self._name = state_dict.get("folder")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the strips, also where training failed."""
        if self.monitor is not None and trainer.is_global_zero:
            self.monitor.finish(failed=True)  # else it has finished
        self.monitor = None if stage == "fit" else self.monitor


def first_detector(module: nn.Module) -> nn.Module:
    """The first module in ``module`` that ``detxai.wrap`` takes.

    Raises:
        TypeError: there is none.
    """
    for inner in module.modules():
        try:
            return module_of(wrap(inner))
        except TypeError:
            continue
    raise TypeError(f"{type(module).__name__} holds no detector that detxai.wrap takes; pass detector=")


def _trainers_loggers(trainer: Trainer) -> list[Logger]:
    """The trainer's TensorBoard and W&B loggers; they stay the trainer's."""
    found: list[Logger] = []
    for logger in trainer.loggers:
        kind = type(logger).__name__
        if kind == "TensorBoardLogger":
            found.append(TensorBoardLogger(logger.experiment))
        elif kind == "WandbLogger":
            found.append(WandbLogger(logger.experiment))
    return found
