"""The arguments of ``detxai methods``."""

from __future__ import annotations

from typing import Any

from detxai.commands.options import new_command

EXAMPLES = """
detxai methods
detxai methods d_rise layer_cam
detxai methods --json
"""


def add_methods(commands: Any) -> None:
    command = new_command(
        commands,
        "methods",
        summary="list the explanation methods: what each needs, its settings and its cost",
        description="List the explanation methods: whether a map belongs to a box or to the whole image, what the "
        "detector must offer, how often the model runs, and the settings with their defaults (--set NAME=VALUE).",
        examples=EXAMPLES,
    )
    command.add_argument("names", nargs="*", metavar="METHOD", help="only these methods; default: all")
    command.add_argument("--json", action="store_true", help="print JSON")
