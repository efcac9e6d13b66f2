"""What several commands take, and how it is read."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detxai.adapters.adapter import Adapter

FAILED, REFUSED, INTERRUPTED = 1, 2, 130  # exit codes: some images failed; nothing was done; Ctrl-C
MODEL_HELP = (
    "a torchvision builder's name (fasterrcnn_resnet50_fpn), the path of a YOLO .pt, module:function for a factory "
    "of your own (of a model, or of a function from images to detections), or a bundled scenes-frcnn or scenes-yolo"
)


def setting(text: str) -> tuple[str, Any]:
    """``name=value``, the value read as JSON where it is JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value, parse_constant=_not_json)
    except ValueError:
        return name, value


def _not_json(constant: str) -> None:
    raise ValueError(constant)


def no_repeats(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(settings)
    if len(named) < len(settings):
        raise ValueError(f"--set: each name once, got {', '.join(name for name, _ in settings)}")
    return named


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1], got {text!r}")
    return value


def on_device(detector: Adapter, device: str | None) -> Adapter:
    if device is not None:
        try:
            detector.model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:  # torch raises either, and no ValueError
            raise ValueError(f"--device: {device!r} cannot be used here: {one_line(error)}") from error
    return detector


def shows_progress(given: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not given.no_progress


def expect_file(path: Path, name: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file: {path}")
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {path}")


def read_class_names(path: Path) -> dict[int, str] | list[str]:
    expect_file(path, "--class-names")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [line.strip() for line in text.rstrip().splitlines()]
        names = json.loads(text)
        if isinstance(names, dict):
            return {int(label): str(name) for label, name in names.items()}
    except ValueError as error:
        raise ValueError(f"--class-names: {path} cannot be read: {error}") from error
    if not isinstance(names, list):
        raise ValueError(f"--class-names: {path} must hold a list or {{label: name}}, got {type(names).__name__}")
    return [str(name) for name in names]


def one_line(error: BaseException) -> str:
    return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
