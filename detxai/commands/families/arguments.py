"""The arguments of ``detxai families``."""

from __future__ import annotations

from typing import Any

from detxai.commands.options import new_command

EXAMPLES = """
detxai families
detxai families --json
"""


def add_families(commands: Any) -> None:
    command = new_command(
        commands,
        "families",
        summary="list the supported detectors, what works with each, and the extra that it needs",
        description="List the families of detectors that detxai recognises: what can be passed to --model or "
        "detxai.wrap, which methods work with it, and which extra to install.",
        examples=EXAMPLES,
    )
    command.add_argument("--json", action="store_true", help="print JSON")
