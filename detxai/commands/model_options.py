"""The detector that a command is about: its options, the same for every command, and the detector they name."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from detxai.adapters.detector import Detector
from detxai.adapters.exported import SUFFIXES
from detxai.adapters.exported.layouts import LAYOUTS
from detxai.adapters.network import module_of
from detxai.adapters.registry import wrap
from detxai.adapters.sliced import Slicing
from detxai.commands.options import LARGEST_SIDE, a_path, expect_file, one_line, read_class_names, whole
from detxai.messages import short_repr

MODEL_HELP = (
    "a torchvision builder's name (fasterrcnn_resnet50_fpn; see detxai families), the path of a YOLO .pt, an exported "
    ".onnx, .xml or .torchscript, the folder of a transformers model's save_pretrained, module:function for a factory "
    "of your own (of a model, or of a function from images to detections), or a bundled scenes-frcnn, scenes-yolo or "
    "scenes-rtdetr"
)


def add_model_options(command: argparse.ArgumentParser) -> None:
    """``--model`` and how it is loaded and run."""
    command.add_argument("--model", required=True, help=MODEL_HELP)
    command.add_argument("--weights", type=a_path, metavar="FILE", help="a torchvision builder's state_dict")
    command.add_argument(
        "--class-names",
        type=a_path,
        metavar="FILE",
        help="a name a line, label 0 first; or .json: list or {label: name}; default: the model's own",
    )
    command.add_argument(
        "--slices",
        type=slices,
        default=None,
        metavar="ROWS,COLUMNS,OVERLAP",
        help="for large images: run the model on so many slices that overlap by this share (2,3,0.2), and on the whole",
    )
    command.add_argument(
        "--layout", choices=list(LAYOUTS), help="what an exported file answers; default: told from its first answer"
    )
    command.add_argument(
        "--input-size",
        type=whole(1, LARGEST_SIDE),
        metavar="N",
        help="side that a YOLO, or an exported file that takes any size, has its images resized to",
    )
    command.add_argument("--device", default=None, help="such as cpu or cuda:0; default: where the model is")


def requested_detector(given: argparse.Namespace) -> Detector:
    """The detector that the options of ``add_model_options`` name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option is wrong, or is not for this model.
    """
    if given.weights is not None:
        expect_file(given.weights, "--weights")
    class_names = None if given.class_names is None else read_class_names(given.class_names)
    if given.layout is not None and not given.model.endswith(SUFFIXES):
        raise ValueError(f"--layout is for exported {', '.join(SUFFIXES)} files, got --model {short_repr(given.model)}")
    asked = {"layout": given.layout, "input_size": given.input_size}
    options = {name: value for name, value in asked.items() if value is not None}
    try:
        detector = wrap(given.model, weights=given.weights, class_names=class_names, slices=given.slices, **options)
    except TypeError as error:
        if "input_size" in options and "input_size" in str(error):
            raise ValueError(
                f"--input-size is for YOLO models and exported files, {given.model} brings images to its own size"
            ) from error
        raise
    return _on_device(detector, given.device)


def model_arguments(given: argparse.Namespace) -> dict[str, str]:
    """The options that were given, as text, so that the same detector can be asked for again."""
    sliced = None if given.slices is None else f"{given.slices.rows},{given.slices.columns},{given.slices.overlap}"
    values = {
        "--model": given.model,
        "--weights": given.weights,
        "--class-names": given.class_names,
        "--slices": sliced,
        "--layout": given.layout,
        "--input-size": given.input_size,
        "--device": given.device,
    }
    return {flag: str(value) for flag, value in values.items() if value is not None}


def slices(text: str) -> Slicing:
    """``rows,columns,overlap``, as ``detxai.wrap`` takes them."""
    try:
        rows, columns, overlap = text.split(",")
        return Slicing(int(rows), int(columns), float(overlap))
    except ValueError as error:
        said = f": {error}" if str(error).startswith("slices") else ""
        raise argparse.ArgumentTypeError(
            f"expected ROWS,COLUMNS,OVERLAP such as 2,3,0.2, got {short_repr(text)}{said}"
        ) from error


def _on_device(detector: Any, device: str | None) -> Detector:
    if device is not None:
        module = module_of(detector)
        try:
            module.to(torch.device(device))
        except Exception as error:  # torch has no one error for a device that it does not have
            raise ValueError(f"--device: {device!r} cannot be used here: {one_line(error)}") from error
    return detector
