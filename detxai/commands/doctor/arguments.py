"""The arguments of ``detxai doctor``."""

from __future__ import annotations

from typing import Any

from detxai.commands.options import new_command

EXAMPLES = """
detxai doctor
detxai doctor --json
"""


def add_doctor(commands: Any) -> None:
    command = new_command(
        commands,
        "doctor",
        summary="check this installation: versions, optional parts, devices, and a short self-test",
        description="Check this installation: which versions are installed, which optional parts (extras) are missing "
        "and what they are for, which devices and how many threads are used, and whether a bundled detector finds and "
        "explains an object whose cause is known. Exits with 1 where something that detxai needs is missing, too old "
        "or does not work. Paste its output into a bug report.",
        examples=EXAMPLES,
    )
    command.add_argument("--json", action="store_true", help="print JSON")
