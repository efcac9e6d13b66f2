"""The detector that a command is about."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from detxai.adapters.detector import Detector
from detxai.adapters.exported import SUFFIXES
from detxai.adapters.network import module_of
from detxai.adapters.registry import wrap
from detxai.commands.options import one_line, read_class_names
from detxai.data.given_paths import expect_file
from detxai.messages import short_repr


def requested_detector(given: argparse.Namespace) -> Detector:
    """The detector that the options of ``model_options.add_model_options`` name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option is wrong, or is not for this model.
    """
    if given.weights is not None:
        expect_file(given.weights, "--weights")
    if given.layout is not None and not given.model.endswith(SUFFIXES):
        raise ValueError(f"--layout is for exported {', '.join(SUFFIXES)} files, got --model {short_repr(given.model)}")
    options = detector_options(given)
    try:
        detector = wrap(given.model, weights=given.weights, **options)
    except TypeError as error:
        if "input_size" in options and "input_size" in str(error):
            raise ValueError(
                f"--input-size is for YOLO models and exported files, {given.model} resizes images to its own size"
            ) from error
        raise
    return _on_device(detector, given.device)


def detector_options(given: argparse.Namespace) -> dict[str, Any]:
    """What ``load_detector`` takes beside the model and its weights."""
    class_names = None if given.class_names is None else read_class_names(given.class_names)
    asked = {"layout": given.layout, "input_size": given.input_size}
    options = {name: value for name, value in asked.items() if value is not None}
    return {"class_names": class_names, "slices": given.slices, **options}


def _on_device(detector: Any, device: str | None) -> Detector:
    if device is not None:
        module = module_of(detector)
        try:
            module.to(torch.device(device))
        except Exception as error:  # torch has no one error for a device that it does not have
            raise ValueError(f"--device: {device!r} cannot be used here: {one_line(error)}") from error
    return detector
