"""The arguments of ``detxai coco merge``."""

from __future__ import annotations

from typing import Any

from detxai.commands.options import a_path, new_command

EXAMPLES = """
detxai coco merge why shard1 shard2 shard3
"""


def add_coco_merge(commands: Any) -> None:
    command = new_command(
        commands,
        "coco merge",
        summary="bring the folders of shards that ran on disks of their own into one",
        description="Copy the finished files of several folders of one run (detxai coco --shard i/n) into OUT. Shards "
        "that write into one folder need no merging.",
        examples=EXAMPLES,
    )
    command.add_argument("out", type=a_path, metavar="OUT", help="a new folder, or that of the same run")
    command.add_argument("folders", nargs="+", type=a_path, metavar="FOLDER", help="the folder of a shard")
    command.add_argument("--json", action="store_true", help="print JSON")
