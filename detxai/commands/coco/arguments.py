"""The arguments of ``detxai coco``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from detxai.commands.annotation_options import add_annotation_options
from detxai.commands.choices import ENGINES, KIND_GROUPS, KINDS
from detxai.commands.model_options import add_model_options
from detxai.commands.options import (
    LARGEST_SIDE,
    a_path,
    a_path_or_address,
    add_config_option,
    add_method_settings,
    add_output_options,
    amount,
    comma_separated,
    fraction,
    new_command,
    whole,
)

EXAMPLES = """
detxai coco --model best.pt --images val --annotations val.json --method layer_cam --out why
detxai coco --model best.pt --images val --annotations val.json --predictions mine.json --method d_rise --out why
detxai coco --model best.pt --images val --annotations val.json --method layer_cam --kinds errors --worst 50 --out why
detxai coco --model best.pt --images val --annotations val.json --method layer_cam --shard 1/4 --out why
detxai coco --model best.pt --images val --annotations val.json --method layer_cam --engine ray --out why
detxai coco --model best.pt --annotations data.yaml --split val --method layer_cam --out why
detxai coco --model best.pt --images s3://data/val --annotations val.json --method layer_cam --out s3://data/why
"""


def add_coco(commands: Any) -> None:
    command = new_command(
        commands,
        "coco",
        summary="explain COCO predictions: why each false positive, why each miss; resumable",
        description="Evaluate predictions as COCOeval does, say what kind of mistake each is, and explain the selected "
        "boxes. Writes a Parquet dataset of the explanations and report.html. It can be stopped at any time: the same "
        "command goes on where it stopped.",
        examples=EXAMPLES,
    )
    _add_inputs(command)
    _add_selection(command)
    _add_evaluation(command)
    _add_run_options(command)
    add_output_options(command)


def _add_inputs(command: argparse.ArgumentParser) -> None:
    add_annotation_options(command, addresses=True)
    command.add_argument(
        "--predictions", type=a_path, metavar="FILE",
        help="COCO results, of any detector's run; default: --model makes the predictions",
    )  # fmt: skip
    command.add_argument(
        "--labels", metavar="HOW",
        help="which label of the model is which category: by-name, by-id, or a JSON file of pairs; "
        "default: recognised from the names",
    )  # fmt: skip
    command.add_argument(
        "--out", required=True, type=a_path_or_address, metavar="DIR",
        help="a new folder, or that of a run to go on with; or an address such as s3://bucket/why",
    )  # fmt: skip
    add_config_option(command)
    add_model_options(command)
    command.add_argument(
        "--method", required=True, help="a method that 'detxai methods' lists; the fastest is layer_cam"
    )
    add_method_settings(command)


def _add_selection(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("which boxes to explain")
    group.add_argument(
        "--kinds", type=comma_separated, metavar="K,...",
        help=f"kinds of boxes, some of {', '.join(KINDS)}; or a group of them: {', '.join(KIND_GROUPS)}; "
        "default: all, which leaves out only the ignored; of images that nobody annotated, the unannotated",
    )  # fmt: skip
    group.add_argument("--classes", type=comma_separated, metavar="NAME,...", help="only these categories")
    group.add_argument("--image-ids", type=_numbers, metavar="ID,...", help="only the images with these ids")
    group.add_argument(
        "--min-area", type=amount, default=0.0, metavar="A",
        help="only boxes of at least A square pixels; COCO's small objects end at 1024; default: 0",
    )  # fmt: skip
    group.add_argument(
        "--max-area", type=amount, default=float("inf"), metavar="A",
        help="only boxes of at most A square pixels; COCO's medium objects end at 9216; default: no limit",
    )  # fmt: skip
    group.add_argument(
        "--min-score", type=amount, default=0.0, metavar="S",
        help="only predictions that score at least S; default: all that reach --operating-score",
    )  # fmt: skip
    group.add_argument(
        "--max-score", type=amount, default=float("inf"), metavar="S",
        help="only predictions that score at most S; default: no limit",
    )  # fmt: skip
    group.add_argument("--worst", type=whole(1), metavar="N", help="only the N mistakes that cost the most AP")
    group.add_argument(
        "--max-images", type=whole(1), metavar="N", help="only the first N images that have boxes to explain"
    )


def _add_evaluation(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the evaluation")
    group.add_argument(
        "--iou", type=fraction, default=0.5,
        help="the IoU from which a prediction matches an annotation; default: 0.5",
    )  # fmt: skip
    group.add_argument(
        "--operating-score", "--operating-point", type=amount, dest="operating_point", default=0.25, metavar="S",
        help="the score from which a prediction counts as made: it decides which objects are found or missed and which "
        "boxes can be explained; AP always uses all predictions; default: 0.25",
    )  # fmt: skip
    group.add_argument(
        "--score-threshold", type=fraction, metavar="S",
        help="the lowest score that the model's predictions are kept at, for AP; default: 0.001, or the lowest score "
        "in --predictions",
    )  # fmt: skip


def _add_run_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the run")
    group.add_argument(
        "--map-stride", type=_stride, default=1, metavar="N",
        help="store maps with one value for every N x N pixels; or 'layer': with one for each cell of the finest "
        "explained layer; default: 1",
    )  # fmt: skip
    group.add_argument(
        "--rows-per-part", type=whole(1), default=32, metavar="N",
        help="explanations in one file; a killed run loses at most about this many; default: 32",
    )  # fmt: skip
    group.add_argument("--shard", default="1/1", metavar="i/n", help="do only the i-th of n equal parts of the work")
    group.add_argument(
        "--workers", type=whole(0, 4096), metavar="N",
        help="threads that read images ahead; default: 2 with a GPU, otherwise 0; with --engine ray: processes that "
        "hold the model; default: one for each GPU, otherwise one for each processor",
    )  # fmt: skip
    group.add_argument(
        "--engine", choices=ENGINES, default="local",
        help="where the model runs: in this process, or in the workers of a Ray cluster; default: local",
    )  # fmt: skip
    group.add_argument(
        "--address", metavar="HOST:PORT",
        help="with --engine ray: a running cluster, or auto for the one of this machine; default: Ray is started here "
        "for the run",
    )  # fmt: skip
    group.add_argument(
        "--gpus-per-worker", type=amount, metavar="N",
        help="with --engine ray: GPUs of each worker; 0.5: two workers share one; default: 1 where there are GPUs",
    )  # fmt: skip
    group.add_argument(
        "--overlays", action="store_true",
        help="also draw each explanation over its photo; also works on a finished run",
    )  # fmt: skip
    group.add_argument("--no-report", action="store_true", help="do not write report.html")
    group.add_argument(
        "--widen", action="store_true",
        help="go on in a folder that holds a narrower selection, and explain only the new boxes",
    )  # fmt: skip
    group.add_argument(
        "--dry-run", action="store_true",
        help="write nothing: explain a few boxes, and say how many boxes, passes, hours and bytes the run will take",
    )  # fmt: skip
    group.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    group.add_argument(
        "--retry-failed", action="store_true", help="try the failed boxes and images again; keep the rest"
    )


def _stride(text: str) -> Any:
    if text == "layer":
        return text
    try:
        return whole(1, LARGEST_SIDE)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace("expected ", "expected 'layer' or ", 1)) from None


def _numbers(text: str) -> Sequence[int]:
    words = comma_separated(text)
    if not words or not all(re.fullmatch(r"-?[0-9]{1,16}", word) for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between, got {text[:80]!r}")
    return [int(word) for word in words]
