"""The arguments of ``detxai concepts find``."""

from __future__ import annotations

from typing import Any

from detxai.commands.annotation_options import add_photo_options
from detxai.commands.model_options import add_model_options
from detxai.commands.options import (
    a_path,
    add_config_option,
    add_output_options,
    amount,
    comma_separated,
    fraction,
    new_command,
    whole,
)
from detxai.settings import LARGEST_SEED

EXAMPLES = """
detxai concepts find --model best.pt --images val --annotations val.json --out concepts
detxai concepts find --model best.pt --images photos --max-images 200 --out concepts
detxai concepts find --model scenes-frcnn --scenes --n-scenes 20 --layers backbone.body.layer2 --out concepts
"""
REMOVALS = ("project", "mean")


def add_concepts_find(commands: Any) -> None:
    command = new_command(
        commands,
        "concepts find",
        summary="which few concepts a detector uses, and what each does for each class; resumable",
        description="Cluster the features at the places that matter to the boxes a detector finds, remove each cluster "
        "from the features, and measure what the boxes lose. Writes index.html, one page of what the detector looks "
        "at, and concepts.safetensors, with which 'detxai explain --method concepts --set concepts=DIR' maps any box. "
        "It can be stopped at any time: the same command goes on where it stopped.",
        examples=EXAMPLES,
    )
    command.add_argument(
        "--out", required=True, type=a_path, metavar="DIR", help="a new folder, or that of a run to go on with"
    )
    add_config_option(command)
    add_model_options(command)
    _add_images(command)
    _add_clustering(command)
    add_output_options(command)


def _add_images(command: Any) -> None:
    group = command.add_argument_group("the images and their boxes")
    add_photo_options(group)
    group.add_argument(
        "--score-threshold", type=fraction, default=0.25, metavar="S",
        help="only boxes that score at least S; default: 0.25",
    )  # fmt: skip
    group.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0, help="the seed of random choices; default: 0")


def _add_clustering(command: Any) -> None:
    group = command.add_argument_group("the concepts")
    group.add_argument(
        "--layers", type=comma_separated, metavar="NAME,...",
        help="the layers whose features are clustered; an earlier layer tells smaller things apart and takes longer; "
        "default: those that the detector's head reads",
    )  # fmt: skip
    group.add_argument(
        "--max-concepts", type=whole(2, 1000), default=40, metavar="K",
        help="the most concepts of each layer, of which it keeps as many as it needs; default: 40",
    )  # fmt: skip
    group.add_argument(
        "--dimensions", type=whole(1, 1000), default=12, metavar="D",
        help="the principal components of the features that are clustered; default: 12",
    )  # fmt: skip
    group.add_argument(
        "--class-weight", type=amount, default=0.0, metavar="W",
        help="how much the class of the box counts beside the features, whose standard deviation is 1; default: 0",
    )  # fmt: skip
    group.add_argument(
        "--max-cells", type=whole(20), default=8000, metavar="N",
        help="the most places that are clustered, chosen at random; default: 8000",
    )  # fmt: skip
    group.add_argument(
        "--removal", choices=REMOVALS, default="project",
        help="how a concept is removed: its direction projected out of the features, or its places moved to the mean "
        "of the others; default: project",
    )  # fmt: skip
    group.add_argument(
        "--fits", type=whole(1, 100), default=3, metavar="N",
        help="fits with different seeds, to say how stable the concepts are; the first is kept; default: 3",
    )  # fmt: skip
