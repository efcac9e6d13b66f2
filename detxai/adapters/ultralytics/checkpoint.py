"""ultralytics ``.pt`` files, loaded without running code from the file."""

from __future__ import annotations

import warnings
import zipfile
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from packaging.version import Version
from torch import nn

OLDEST = "8.4.180"  # before it predict answers otherwise, and before 8.4.141 a file needs its own code to be loaded
KEPT_ARGUMENTS = ("imgsz", "data", "task", "single_cls")  # what YOLO(path) keeps of the training's arguments


def ultralytics_module(name: str) -> ModuleType:
    """``ultralytics.<name>``, imported only now.

    Raises:
        ImportError: ultralytics is not installed, or too old; the message says how to.
    """
    require_ultralytics()
    return import_module(f"ultralytics.{name}")


def require_ultralytics() -> None:
    """Refuse an ultralytics that detxai's answers were not tested with.

    Raises:
        ImportError: it is not installed, or older than ``OLDEST``.
    """
    try:
        installed = import_module("ultralytics").__version__
    except ModuleNotFoundError as error:
        if error.name != "ultralytics":
            raise
        raise ImportError('YOLO models need ultralytics: pip install "detxai[yolo]"') from error
    if Version(installed) < Version(OLDEST):
        raise ImportError(f'YOLO models need ultralytics {OLDEST}, got {installed}: pip install -U "detxai[yolo]"')


def load_checkpoint(path: str | PathLike[str]) -> nn.Module:
    """The model of an ultralytics ``.pt`` file: float32, in eval mode, on the CPU; nothing is ever downloaded.

    Only the classes that ultralytics' own checkpoints need are rebuilt (``torch.load(weights_only=True)``), so a file
    from a stranger cannot run code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not an ultralytics checkpoint, is damaged, or needs a full unpickling.
        ImportError: ultralytics is not installed.
    """
    file = Path(fspath(path))
    if not file.exists():
        raise FileNotFoundError(f"model: no such file: {file}")
    if not file.is_file() or file.suffix.lower() != ".pt":
        raise ValueError(f"model must be a .pt file of ultralytics; exported models cannot be explained; got {file}")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"model: {file} is not a PyTorch checkpoint, or it is damaged or truncated")
    checkpoint = _load_restricted(file)
    model = checkpoint.get("ema") or checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(model, ultralytics_module("nn.tasks").BaseModel):
        raise ValueError(f"model: {file} holds no ultralytics model (weights alone do not say which network they fit)")
    if checkpoint.get("modelopt"):
        raise ValueError(f"model: {file} is quantised; {_yourself(file)}")
    return _as_loaded(model.float().eval(), file, checkpoint.get("train_args") or {})


def _load_restricted(file: Path) -> Any:
    restricted = getattr(ultralytics_module("nn.tasks"), "_SafeLoad", None)
    if restricted is None or not restricted.SUPPORTED:
        raise ValueError(f"model: this ultralytics cannot load {file} without running code from it; {_yourself(file)}")
    # not torch_safe_load: it looks for a yolov5s.pt as yolov5su.pt, and downloads what it does not find
    try:
        with restricted.loading(str(file)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript archives, which the error below speaks of
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError and more for bad files
        if "weights only" in str(error).lower() or "blocked during restricted" in str(error):
            raise ValueError(
                f"model: {file} holds more than a restricted unpickling rebuilds; {_yourself(file)}"
            ) from error
        if "TorchScript" in str(error):
            raise ValueError(f"model: {file} is a TorchScript export; its layers cannot be explained") from error
        raise ValueError(f"model: {file} is not an ultralytics checkpoint, or it is damaged ({error})") from error


def _yourself(file: Path) -> str:
    return f"if you trust the file, load it yourself: detxai.wrap(ultralytics.YOLO({str(file)!r}))"


def _as_loaded(model: nn.Module, file: Path, arguments: dict[str, Any]) -> nn.Module:
    """What ultralytics' own loader adds to a model."""
    loaded: Any = model
    loaded.args = {name: arguments[name] for name in KEPT_ARGUMENTS if name in arguments}
    loaded.pt_path = str(file)
    if getattr(model, "_end2end", False) or getattr(loaded.model[-1], "_end2end", False):
        loaded.end2end = False  # as YOLO(path).predict has it
    for layer in model.modules():
        if isinstance(layer, nn.Upsample) and not hasattr(layer, "recompute_scale_factor"):
            layer.recompute_scale_factor = None  # saved by torch < 1.11
    return model
