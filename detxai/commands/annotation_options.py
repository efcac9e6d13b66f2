"""The options that say which images a command is about and how they are annotated."""

from __future__ import annotations

import argparse

from detxai.commands.choices import ANNOTATION_FORMATS, SCENE_KINDS
from detxai.commands.options import a_path, a_path_or_address, names_with_commas, whole


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


def add_photo_options(command: argparse._ActionsContainer) -> None:
    """The annotation options, or ``--scenes`` and ``--n-scenes`` in their place; and ``--max-images``."""
    add_annotation_options(command)
    command.add_argument(
        "--scenes", nargs="?", const=(), type=names_with_commas, metavar="KIND,...",
        help="instead of --images and --annotations: generated scenes, in which the cause of each detection is known; "
        f"kinds: {', '.join(SCENE_KINDS)}; without a value: all kinds",
    )  # fmt: skip
    command.add_argument(
        "--n-scenes", type=whole(1), default=10, metavar="N", help="the number of scenes of each kind; default: 10"
    )
    command.add_argument(
        "--max-images", type=whole(1), metavar="N", help="only N images, chosen at random; default: all"
    )
