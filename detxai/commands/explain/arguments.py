"""The arguments of ``detxai explain``."""

from __future__ import annotations

import argparse
from typing import Any

from detxai.commands.choices import DEFAULT_METHOD, MODES
from detxai.commands.model_options import add_model_options
from detxai.commands.options import (
    a_path,
    add_config_option,
    add_method_settings,
    add_output_options,
    fraction,
    new_command,
    places,
)

EXAMPLES = """
detxai explain photo.jpg --model best.pt --out explained
detxai explain photo.jpg --model scenes-frcnn --method layer_cam --out explained
detxai explain *.jpg --model best.onnx --method d_rise --set n_masks=500 --score-threshold 0.5 --out explained
"""


def add_explain(commands: Any) -> None:
    command = new_command(
        commands,
        "explain",
        summary="explain the detections in images: which pixels put each box there",
        description="Detect objects in each image and explain every box. Each image gets a folder with three files for "
        "each box: the map drawn over the photo (.png), the raw map (.npz), and a record of the box, the method and "
        "the command that makes it again (.json).",
        examples=EXAMPLES,
    )
    command.add_argument("images", nargs="+", type=a_path, metavar="IMAGE", help="an image file")
    command.add_argument(
        "--out", required=True, type=a_path, metavar="DIR", help="where to write; gets one folder for each image"
    )
    add_config_option(command)
    add_model_options(command)
    _add_method(command)
    add_output_options(command)


def _add_method(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the explanation")
    group.add_argument(
        "--method", default=DEFAULT_METHOD,
        help=f"a method that 'detxai methods' lists; default: {DEFAULT_METHOD}, which runs the model about 300 times "
        "for each box; the fastest is layer_cam: once",
    )  # fmt: skip
    add_method_settings(group)
    group.add_argument(
        "--mode", choices=MODES,
        help="what the overlay shows: only the evidence for the box, or also the evidence against it (signed); "
        "default: what suits the method",
    )  # fmt: skip
    group.add_argument(
        "--score-threshold", type=fraction, default=0.25, metavar="S",
        help="explain the boxes that score at least S; default: 0.25",
    )  # fmt: skip
    group.add_argument(
        "--boxes", type=places, metavar="N,...",
        help="explain only these boxes, by their number in the printed table, which starts at 0; default: all",
    )  # fmt: skip
