"""The arguments of ``detxai coco export``."""

from __future__ import annotations

from typing import Any

from detxai.commands.choices import EXPORTS, KINDS
from detxai.commands.options import a_path, add_output_options, amount, comma_separated, new_command

EXAMPLES = """
detxai coco export why --to fiftyone --into my-mistakes
detxai coco export why --to label-studio --into tasks --kinds missed
detxai coco export why --to datasets --into why_dataset --kinds background,missed --min-score 0.5
detxai coco export why --to tensorboard --into runs/why
"""


def add_coco_export(commands: Any) -> None:
    command = new_command(
        commands,
        "coco export",
        summary="hand the explanations of a run to another tool",
        description="Hand the explanations of a run of 'detxai coco' to FiftyOne, Hugging Face datasets, Label Studio, "
        "supervision, TensorBoard or Weights & Biases. The tool must be installed; the extra has its name.",
        examples=EXAMPLES,
    )
    command.add_argument("folder", type=a_path, metavar="OUT", help="the folder of the run: its --out")
    command.add_argument("--to", required=True, choices=EXPORTS, help="the tool")
    command.add_argument(
        "--into", required=True, metavar="WHERE",
        help="fiftyone: the name of a new dataset; wandb: the project; otherwise: a new or empty folder, and for "
        "tensorboard any folder",
    )  # fmt: skip
    command.add_argument(
        "--images", type=a_path, metavar="DIR", help="the folder of the images; default: the run's own"
    )
    command.add_argument(
        "--kinds", type=comma_separated, metavar="K,...", help=f"only these kinds of boxes, some of {', '.join(KINDS)}"
    )
    command.add_argument("--classes", type=comma_separated, metavar="NAME,...", help="only these categories")
    command.add_argument(
        "--min-score", type=amount, metavar="S", help="only predictions that score at least S; no missed objects"
    )
    add_output_options(command)
