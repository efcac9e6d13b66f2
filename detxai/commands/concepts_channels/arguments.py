"""The arguments of ``detxai concepts channels``."""

from __future__ import annotations

import argparse
from typing import Any

from detxai.commands.model_options import add_model_options
from detxai.commands.options import a_path, add_output_options, comma_separated, fraction, new_command, whole
from detxai.settings import LARGEST_SEED

EXAMPLES = """
detxai concepts channels --model best.pt --images photos --out channels
detxai concepts channels --model best.pt --images photos --class dog --layer model.15 --top 12 --out channels
detxai concepts channels --model best.pt --images photos --channels model.15:3,model.15:40 --out channels
"""


def add_concepts_channels(commands: Any) -> None:
    command = new_command(
        commands,
        "concepts channels",
        summary="show what the channels of a layer want to see, and which of them keep a box",
        description="Find the channels that a class loses most without (exact ablations), and show for each a picture "
        "that excites it as much as possible and the patches of the images that excite it most; show what the head "
        "wants to see of the class; and find a minimal set of channels that keeps a box. Writes a page, the pictures "
        "and the numbers.",
        examples=EXAMPLES,
    )
    command.add_argument("--images", required=True, type=a_path, metavar="DIR", help="a folder of images")
    command.add_argument(
        "--out", required=True, type=a_path, metavar="DIR",
        help="where to write; a folder that holds something is left as it is, and DIR2, DIR3, ... is taken",
    )  # fmt: skip
    add_model_options(command)
    _add_channels(command)
    _add_pictures(command)
    add_output_options(command)


def _add_channels(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("which channels")
    group.add_argument(
        "--layer", action="append", metavar="L", dest="layers",
        help="the name of a layer; may be repeated; default: those that Ablation-CAM ablates",
    )  # fmt: skip
    group.add_argument(
        "--class", metavar="NAME", dest="class_name",
        help="the class whose channels are shown; default: the one detected most often",
    )  # fmt: skip
    group.add_argument(
        "--top", type=whole(1, 1000), default=12, metavar="N",
        help="how many channels: those that the class loses most without; default: 12",
    )  # fmt: skip
    group.add_argument("--channels", type=comma_separated, metavar="LEVEL:NUMBER,...", help="these channels instead")
    group.add_argument(
        "--max-boxes", type=whole(1, 100_000), default=20, metavar="N", help="boxes to ablate; default: 20"
    )
    group.add_argument(
        "--max-images", type=whole(1), metavar="N", help="look at the first N images alone; default: all"
    )
    group.add_argument(
        "--keeps", type=fraction, default=0.5, metavar="S",
        help="a set of channels keeps a box where at least this share of its score is left; default: 0.5",
    )  # fmt: skip
    group.add_argument(
        "--score-threshold", type=fraction, default=0.25, metavar="S",
        help="what scores at least S is a detection; default: 0.25",
    )  # fmt: skip


def _add_pictures(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the pictures")
    group.add_argument(
        "--examples", type=whole(1, 100), default=6, metavar="N", help="patches of each channel; default: 6"
    )
    group.add_argument(
        "--size", type=whole(16, 4096), default=160, metavar="N",
        help="the side of the optimised pictures in pixels, a multiple of the model's stride; default: 160",
    )  # fmt: skip
    group.add_argument(
        "--steps", type=whole(1, 100_000), default=128, metavar="N", help="of the optimisation; default: 128"
    )
    group.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0, metavar="N", help="of the optimisation")
