"""The options that say which images a command is about and how they are annotated."""

from __future__ import annotations

import argparse

from detxai.commands.choices import ANNOTATION_FORMATS
from detxai.commands.options import a_path, a_path_or_address


def add_annotation_options(command: argparse._ActionsContainer, *, addresses: bool = False) -> None:
    """``--images``, ``--annotations``, ``--annotation-format`` and ``--split``.

    Args:
        command: the parser.
        addresses: whether ``--images`` takes an address too.
    """
    or_address = ". With COCO annotations, or none, also an address such as s3://bucket/val" if addresses else ""
    command.add_argument(
        "--images", type=a_path_or_address if addresses else a_path, metavar="DIR",
        help="the folder of the images; without --annotations, they are images that nobody annotated. A YOLO or VOC "
        "data set says itself where its images are; a Hugging Face data set holds them, and they are written here"
        + or_address,
    )  # fmt: skip
    command.add_argument(
        "--annotations", type=a_path, metavar="PATH",
        help="the annotations: a COCO JSON file, a YOLO data.yaml, a folder of Pascal VOC's XML files, or what "
        "save_to_disk or to_parquet of Hugging Face's datasets wrote",
    )  # fmt: skip
    command.add_argument(
        "--annotation-format", choices=ANNOTATION_FORMATS, help="how PATH is read; default: recognised from what it is"
    )
    command.add_argument(
        "--split", metavar="NAME",
        help="which split of a data set with several, such as val; default: YOLO's val, every file of VOC",
    )  # fmt: skip
