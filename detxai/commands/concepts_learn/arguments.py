"""The arguments of ``detxai concepts learn``."""

from __future__ import annotations

from typing import Any

from detxai.commands.choices import LEARN_OBJECTIVES
from detxai.commands.model_options import add_model_options
from detxai.commands.options import (
    a_path,
    add_config_option,
    add_output_options,
    new_command,
    setting,
    whole,
)
from detxai.settings import LARGEST_SEED

EXAMPLES = """
detxai concepts learn --model best.pt --images photos --out learnt
detxai explain photo.jpg --model best.pt --method l2x --set explainer=learnt/explainer.safetensors --out why
detxai concepts learn --model scenes-yolo --scenes 600 --out learnt
detxai concepts learn --model scenes-yolo --scenes 600 --objective choice --set k=8 --set steps=300 --out chosen
"""


def add_concepts_learn(commands: Any) -> None:
    command = new_command(
        commands,
        "concepts learn",
        summary="train an explainer for one detector, which then answers in one pass (method l2x); resumable",
        description="Ask the detector about its own boxes of many images while parts are hidden, and train a small "
        "network that says at once what each place adds. Writes DIR/explainer.safetensors. It can be stopped at any "
        "time: the same command goes on where it stopped.",
        examples=EXAMPLES,
    )
    command.add_argument(
        "--out", required=True, type=a_path, metavar="DIR", help="a new folder, or that of a run to go on with"
    )
    add_config_option(command)
    add_model_options(command)
    group = command.add_argument_group("the images")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--images", type=a_path, metavar="DIR", help="a folder of images; no annotations are needed")
    which.add_argument(
        "--scenes", type=whole(1, 100_000), metavar="N",
        help="N generated scenes, for the bundled detectors; none that evaluations use",
    )  # fmt: skip
    group = command.add_argument_group("the training")
    group.add_argument(
        "--objective", choices=LEARN_OBJECTIVES, default="evidence",
        help="evidence: where the default method finds evidence; shapley: amounts that add up to what the detector "
        "answers for random subsets of regions; choice: L2X, which k regions to show so that the detector answers as "
        "for the whole image; default: evidence",
    )  # fmt: skip
    group.add_argument(
        "--set", dest="settings", action="append", default=[], type=setting, metavar="NAME=VALUE",
        help="a setting of detxai.concepts.learned.settings.LearnSettings, such as steps=600 or n_subsets=4; may be "
        "repeated",
    )  # fmt: skip
    group.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0, help="of everything random; default: 0")
    add_output_options(command)
