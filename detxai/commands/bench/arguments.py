"""The arguments of ``detxai bench``."""

from __future__ import annotations

from typing import Any

from detxai.commands.model_options import add_model_options
from detxai.commands.options import a_path, add_config_option, fraction, new_command, whole
from detxai.settings import LARGEST_SEED

BENCHED = ("ablation", "d_rise", "eigen_cam")
EXAMPLES = """
detxai bench ablation --model best.pt --image street.jpg
detxai bench d_rise --model best.onnx --image street.jpg --n-masks 128 --json
detxai bench eigen_cam --model fasterrcnn_resnet50_fpn --image street.jpg
"""


def add_bench(commands: Any) -> None:
    command = new_command(
        commands,
        "bench",
        summary="time a method on this machine, beside other tools and the plain way to compute the same",
        description="Time one method in this process: detxai's way, the plain way to compute the same (brute force), "
        "and other tools where they are installed, on the same detector, image and boxes.",
        examples=EXAMPLES,
    )
    command.add_argument("what", choices=BENCHED, help="the method to time")
    command.add_argument("--image", required=True, type=a_path, metavar="IMAGE", help="an image file")
    add_config_option(command)
    add_model_options(command)
    command.add_argument(
        "--score-threshold", type=fraction, default=0.25, metavar="S",
        help="only boxes that score at least S; default: 0.25",
    )  # fmt: skip
    command.add_argument(
        "--max-boxes", type=whole(1), default=20, metavar="N", help="only the N boxes with the best scores; default: 20"
    )
    command.add_argument(
        "--n-masks", type=whole(1), metavar="N", help="for d_rise: the number of masks in each round; default: 64"
    )
    command.add_argument(
        "--compare-masks", type=whole(0), default=400, metavar="N",
        help="for d_rise: the number of masks for comparing the maps with the other tool's; 0: do not compare; "
        "default: 400",
    )  # fmt: skip
    command.add_argument(
        "--batch-size", type=whole(1), metavar="N",
        help="for d_rise: the images in one pass; default: what fits in memory; ablation and eigen_cam choose theirs",
    )  # fmt: skip
    command.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), metavar="N",
        help="for d_rise: the seed of the masks; ablation and eigen_cam draw nothing at random; default: 0",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="print JSON")
