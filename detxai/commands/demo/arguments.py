"""The arguments of ``detxai demo``."""

from __future__ import annotations

from typing import Any

from detxai.commands.options import a_path, add_progress_option, new_command

EXAMPLES = "detxai demo --out demo"


def add_demo(commands: Any) -> None:
    command = new_command(
        commands,
        "demo",
        summary="let the bundled detectors explain bundled pictures: a first look, offline, in about two minutes",
        description="Explain generated pictures in which the cause of each detection is known, with the bundled "
        "detectors. Needs no network and no files of yours. Writes a page: open DIR/index.html in a browser.",
        examples=EXAMPLES,
    )
    command.add_argument("--out", required=True, type=a_path, metavar="DIR", help="the folder to write the page to")
    add_progress_option(command)
