"""The arguments of ``detxai concepts attack``."""

from __future__ import annotations

import argparse
from typing import Any

from detxai.commands.choices import ATTACK_GOALS, ATTACK_NORMS
from detxai.commands.model_options import add_model_options
from detxai.commands.options import (
    a_path,
    add_method_settings,
    add_output_options,
    amount,
    fraction,
    new_command,
    whole,
)
from detxai.settings import LARGEST

EXAMPLES = """
detxai concepts attack scene.png --model scenes-yolo --out attacked
detxai concepts attack *.jpg --model best.pt --method pixel_evidence --norm l2 --out attacked
detxai concepts attack photo.jpg --model best.pt --goal class --other dog --pixel-budget 0.01 --out attacked
"""


def add_concepts_attack(commands: Any) -> None:
    command = new_command(
        commands,
        "concepts attack",
        summary="attack a box and compare what the attack changes with what the explanation marks",
        description="Explain one box of each image, attack it by projected gradient descent (anywhere, in the tenth of "
        "the pixels that the map marks, elsewhere, at random), and explain it again in the attacked image. Writes a "
        "page, the attacked images and the numbers.",
        examples=EXAMPLES,
    )
    command.add_argument("images", nargs="+", type=a_path, metavar="IMAGE", help="an image file")
    command.add_argument(
        "--out", required=True, type=a_path, metavar="DIR",
        help="where to write; a folder that holds something is left as it is, and DIR2, DIR3, ... is taken",
    )  # fmt: skip
    add_model_options(command)
    _add_attack(command)
    group = command.add_argument_group("the explanation")
    group.add_argument(
        "--method", default="layer_cam", help="a method that 'detxai methods' lists; default: layer_cam, one pass a box"
    )
    add_method_settings(group)
    add_output_options(command)


def _add_attack(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the attack")
    group.add_argument(
        "--goal", choices=ATTACK_GOALS, default="vanish",
        help="the box shall vanish, get another class, or move; default: vanish",
    )  # fmt: skip
    group.add_argument(
        "--other", metavar="NAME", help="for --goal class: the class wanted; default: the likeliest other one"
    )
    group.add_argument(
        "--norm", choices=ATTACK_NORMS, default="linf",
        help="of the change: the largest change of a value (linf) or the Euclidean norm (l2); default: linf",
    )  # fmt: skip
    group.add_argument(
        "--epsilon", type=amount, metavar="E",
        help="the largest norm, of values in [0, 1]; default: 8/255 for linf, 2/255 of every value for l2",
    )  # fmt: skip
    group.add_argument(
        "--steps", type=whole(1, 10_000), default=20, metavar="N", help="gradients of each attack; default: 20"
    )
    group.add_argument(
        "--pixel-budget", type=fraction, metavar="S",
        help="attack also at this share of the pixels, those that matter most to an attack anywhere",
    )  # fmt: skip
    group.add_argument(
        "--mask", type=a_path, metavar="FILE",
        help="attack also within this mask: an image of the same size, not black where a pixel may change",
    )  # fmt: skip
    group.add_argument(
        "--box", type=whole(0, LARGEST), default=0, metavar="N",
        help="which detection, the highest score being 0; default: 0",
    )  # fmt: skip
    group.add_argument(
        "--score-threshold", type=fraction, default=0.25, metavar="S",
        help="what scores at least S is a detection; default: 0.25",
    )  # fmt: skip
