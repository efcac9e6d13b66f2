"""The arguments of ``detxai evaluate``."""

from __future__ import annotations

import argparse
from typing import Any

from detxai.commands.annotation_options import add_photo_options
from detxai.commands.choices import (
    BASELINES,
    COSTLY_MEASURES,
    FILLINGS,
    MEASURES,
    PEERS,
    REFERENCES,
    SCORE_FUNCTIONS,
    UNITS,
)
from detxai.commands.model_options import add_model_options
from detxai.commands.options import (
    a_path,
    add_batch_size,
    add_config_option,
    add_output_options,
    fraction,
    names_with_commas,
    new_command,
    setting,
    whole,
)
from detxai.settings import LARGEST_SEED

EXAMPLES = """
detxai evaluate --model best.pt --images val --annotations val.json --methods layer_cam,d_rise,random --out ranking
detxai evaluate --model best.pt --images val --annotations val.json --methods all --max-images 20 --out ranking
detxai evaluate --model scenes-frcnn --scenes local,context --methods layer_cam,planted,random --out on_scenes
detxai evaluate --model scenes-frcnn --scenes --methods d_rise,few=d_rise --set few.n_masks=200 --out masks
"""


def add_evaluate(commands: Any) -> None:
    command = new_command(
        commands,
        "evaluate",
        summary="measure which method's maps can be believed, on your detector and images; resumable",
        description="Explain the same detections with several methods and measure every map. Writes a ranking with "
        "intervals to results.parquet and index.html. It can be stopped at any time: the same command goes on where "
        "it stopped.",
        examples=EXAMPLES,
    )
    command.add_argument(
        "--methods", required=True, type=names_with_commas, metavar="A,B",
        help=f"methods that 'detxai methods' lists; methods of other tools: {', '.join(PEERS)}; baselines that use no "
        f"detector: {', '.join(BASELINES)}; or all: every method, box_centre and random. NAME=METHOD enters a method "
        "again under a second name, for other settings",
    )  # fmt: skip
    command.add_argument(
        "--out", required=True, type=a_path, metavar="DIR", help="a new folder, or that of a run to go on with"
    )
    add_config_option(command)
    add_model_options(command)
    _add_images(command)
    _add_measures(command)
    add_batch_size(command)
    add_output_options(command)


def _add_images(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the images and their detections")
    add_photo_options(group)
    group.add_argument(
        "--max-detections", type=whole(1), metavar="N", help="only N detections, chosen at random; default: all"
    )
    group.add_argument(
        "--score-threshold", type=fraction, default=0.25, metavar="S",
        help="only detections that score at least S; default: 0.25",
    )  # fmt: skip
    group.add_argument(
        "--unmatched", action="store_true", help="also detections that match no annotated object (false positives)"
    )
    group.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), default=0,
        help="the seed of random choices and of the intervals; default: 0",
    )  # fmt: skip


def _add_measures(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the measures")
    group.add_argument(
        "--measures", type=names_with_commas, metavar="A,B",
        help=f"some of {', '.join(MEASURES)}; default: all but the slow ones: {', '.join(COSTLY_MEASURES)}",
    )  # fmt: skip
    group.add_argument(
        "--steps", type=whole(1), metavar="N",
        help="the number of steps of insertion and deletion curves; default: the measure's own",
    )  # fmt: skip
    group.add_argument(
        "--fill", type=_fills, metavar="A,B",
        help=f"what hidden pixels are replaced with, some of {', '.join(FILLINGS)}; with several, insertion_deletion "
        "measures with each and other measures use the first; default: the measure's own",
    )  # fmt: skip
    group.add_argument(
        "--unit", choices=UNITS, help="what insertion and deletion show or hide step by step; default: pixel"
    )
    group.add_argument(
        "--score", choices=SCORE_FUNCTIONS,
        help="the number that says how much of a detection is left; default: class_score",
    )  # fmt: skip
    group.add_argument(
        "--reference", choices=REFERENCES,
        help="the box that maps are compared with: the detected one or the annotated object's; default: detection",
    )  # fmt: skip
    group.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="OWNER.NAME=VALUE", dest="settings",
        help="a setting of a method or measure, such as d_rise.n_masks=200; may be repeated",
    )  # fmt: skip


def _fills(text: str) -> str | list[str]:
    """One fill, or several of them."""
    fills = names_with_commas(text)
    unknown = [fill for fill in fills if fill not in FILLINGS]
    if unknown or len(set(fills)) < len(fills):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FILLINGS)}, each once, got {text!r}")
    return fills[0] if len(fills) == 1 else fills


def _setting(text: str) -> tuple[str, tuple[str, Any]]:
    """``OWNER.NAME=VALUE``: a setting of a method or measure."""
    owner, dot, _ = text.partition("=")[0].rpartition(".")
    if not dot or not owner:
        raise argparse.ArgumentTypeError(f"expected METHOD.NAME=VALUE or MEASURE.NAME=VALUE, got {text!r}")
    return owner, setting(text[len(owner) + 1 :])
