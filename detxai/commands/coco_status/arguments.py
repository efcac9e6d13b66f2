"""The arguments of ``detxai coco status``."""

from __future__ import annotations

from typing import Any

from detxai.commands.options import a_path, new_command, whole

EXAMPLES = """
detxai coco status why
detxai coco status why --shards 4 --json
"""


def add_coco_status(commands: Any) -> None:
    command = new_command(
        commands,
        "coco status",
        summary="say how far a run of detxai coco is, and how long it still takes",
        description="Read the folder of a run, which may be running, also on another machine, or be stopped. "
        "Nothing is written.",
        examples=EXAMPLES,
    )
    command.add_argument("out", type=a_path, metavar="OUT", help="the folder of the run")
    command.add_argument(
        "--shards", type=whole(1, 100_000), metavar="N", help="the run was started as N shards: say how far each is"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
