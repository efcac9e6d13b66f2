"""Numbers and overlays to TensorBoard, Weights & Biases and MLflow, each through its own API."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Numbers = Mapping[str, float]
Pictures = Mapping[str, npt.NDArray[np.uint8]]
PREFIX = "detxai/"


class Logger(Protocol):
    """Whatever takes numbers and pictures of an epoch."""

    def log(self, epoch: int, numbers: Numbers, pictures: Pictures) -> None:
        """Log one epoch; pictures are uint8 (H, W, 3) RGB."""

    def close(self) -> None:
        """Flush; the run of somebody else stays open."""


class TensorBoardLogger:
    """Writes event files.

    Args:
        target: a folder, or a ``SummaryWriter`` that somebody else opened and will close.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, target: Path | str | Any) -> None:
        self._own = isinstance(target, (str, Path))
        self._writer: Any = _summary_writer(Path(target)) if self._own else target

    def log(self, epoch: int, numbers: Numbers, pictures: Pictures) -> None:
        """Scalars and images under ``detxai/``."""
        for name, number in numbers.items():
            self._writer.add_scalar(PREFIX + name, number, epoch)
        for name, picture in pictures.items():
            self._writer.add_image(PREFIX + name, picture, epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close a writer of our own."""
        if self._own:
            self._writer.close()


class WandbLogger:
    """Logs into a Weights & Biases run without closing its step: the training's own next ``log`` does.

    Where the training logs nothing between two epochs, the step is closed here: W&B keeps one value a step.

    Args:
        run: the run; None: the active one.

    Raises:
        ImportError: wandb is not installed.
        RuntimeError: no run is active.
    """

    def __init__(self, run: Any = None) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ImportError("Weights & Biases is not installed: pip install wandb") from error
        self._image = wandb.Image
        self._run = run or wandb.run
        if self._run is None:
            raise RuntimeError("no Weights & Biases run is active: call wandb.init(), or pass run=")
        self._open_step: int | None = None

    def log(self, epoch: int, numbers: Numbers, pictures: Pictures) -> None:
        """Numbers and images under ``detxai/``, with ``detxai/epoch`` beside them for the axis."""
        named: dict[str, Any] = {PREFIX + name: number for name, number in numbers.items()}
        named |= {PREFIX + name: self._image(picture) for name, picture in pictures.items()}
        if self._run.step == self._open_step:
            self._run.log({}, commit=True)
        self._run.log({**named, PREFIX + "epoch": epoch}, commit=False)
        self._open_step = self._run.step

    def close(self) -> None:
        """Nothing: the run is the user's."""


class MLflowLogger:
    """Logs into the active MLflow run.

    Raises:
        ImportError: mlflow is not installed.
        RuntimeError: no run is active.
    """

    def __init__(self) -> None:
        try:
            mlflow: Any = importlib.import_module("mlflow")
        except ImportError as error:
            raise ImportError("MLflow is not installed: pip install mlflow") from error
        if mlflow.active_run() is None:
            raise RuntimeError("no MLflow run is active: call mlflow.start_run()")
        self._mlflow = mlflow

    def log(self, epoch: int, numbers: Numbers, pictures: Pictures) -> None:
        """Metrics and images under ``detxai/``."""
        self._mlflow.log_metrics({PREFIX + _mlflow_name(name): number for name, number in numbers.items()}, step=epoch)
        for name, picture in pictures.items():
            self._mlflow.log_image(picture, f"{PREFIX}{_mlflow_name(name)}/epoch_{epoch:04d}.png")

    def close(self) -> None:
        """Nothing: the run is the user's."""


def automatic_loggers(folder: Path) -> list[Logger]:
    """TensorBoard where it is installed, and the W&B and MLflow runs that are active now; nothing is started.

    Where ultralytics writes TensorBoard files itself, its own writer is used, else ``folder/tensorboard``.
    """
    found: list[Logger] = []
    try:
        found.append(TensorBoardLogger(_ultralytics_writer() or folder / "tensorboard"))
    except ImportError:
        log.info("tensorboard is not installed: nothing goes there")
    # a library that nobody imported has no active run
    if getattr(sys.modules.get("wandb"), "run", None) is not None:
        found.append(WandbLogger())
    if "mlflow" in sys.modules and sys.modules["mlflow"].active_run() is not None:
        found.append(MLflowLogger())
    return found


def _ultralytics_writer() -> Any:
    return getattr(sys.modules.get("ultralytics.utils.callbacks.tensorboard"), "WRITER", None)


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard is not installed: pip install tensorboard") from error
    return SummaryWriter(str(folder))


def _mlflow_name(name: str) -> str:
    """MLflow takes letters, digits and ``_-. /`` in names.

    >>> _mlflow_name("score/gem (upright)")
    'score/gem _upright_'
    """
    return "".join(sign if sign.isalnum() or sign in "_-. /" else "_" for sign in name)
