"""The options that say which detector a command is about: the same for every command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from detxai.commands.choices import BUNDLED, EXPORTED_SUFFIXES, LAYOUTS
from detxai.commands.options import LARGEST_SIDE, a_path, whole
from detxai.messages import short_repr

if TYPE_CHECKING:
    from detxai.adapters.sliced import Slicing

MODEL_HELP = (
    f"one of: a bundled detector ({', '.join(BUNDLED)}); the path of a YOLO .pt file; an exported file "
    f"({', '.join(EXPORTED_SUFFIXES)}); a folder written by a transformers model's save_pretrained; the name of a "
    "torchvision builder, such as fasterrcnn_resnet50_fpn, with --weights; or module:function or file.py:function, "
    "a function of your own that returns a model. 'detxai families' lists the supported detectors"
)


def add_model_options(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--model`` and how it is loaded and run."""
    group = command.add_argument_group("the detector")
    group.add_argument("--model", required=required, help=MODEL_HELP)
    group.add_argument(
        "--weights", type=a_path, metavar="FILE",
        help="for a torchvision builder: the file of its state_dict; without it the weights are random",
    )  # fmt: skip
    group.add_argument(
        "--class-names", type=a_path, metavar="FILE",
        help="the names of the classes: a text file with one name per line, label 0 first; or a .json file with a list "
        "of names or an object {label: name}; default: the model's own names",
    )  # fmt: skip
    group.add_argument(
        "--slices", type=slices, metavar="ROWS,COLUMNS,OVERLAP",
        help="for large images: run the model on ROWS x COLUMNS overlapping slices, and on the whole image; OVERLAP is "
        "a fraction of a slice's side; for example 2,3,0.2",
    )  # fmt: skip
    group.add_argument(
        "--layout", choices=LAYOUTS,
        help="for an exported file: how its output is laid out; default: recognised from its first output",
    )  # fmt: skip
    group.add_argument(
        "--input-size", type=whole(1, LARGEST_SIDE), metavar="N",
        help="for a YOLO, or an exported file that accepts any size: the side in pixels to which images are resized",
    )  # fmt: skip
    group.add_argument("--device", help="where the model runs, such as cpu or cuda:0; default: where it was loaded")


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
    from detxai.adapters.sliced import Slicing  # heavy, and needed only where the option is given

    try:
        rows, columns, overlap = text.split(",")
        return Slicing(int(rows), int(columns), float(overlap))
    except ValueError as error:
        said = f": {error}" if str(error).startswith("slices") else ""
        raise argparse.ArgumentTypeError(
            f"expected ROWS,COLUMNS,OVERLAP such as 2,3,0.2, got {short_repr(text)}{said}"
        ) from error
