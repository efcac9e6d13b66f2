"""``detxai demo``: the bundled detectors explain the bundled scenes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from detxai.commands.options import a_path, shows_progress
from detxai.demo.run import make_demo


def add_demo(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "demo", help="the bundled detectors explain the bundled scenes; offline; DIR/index.html"
    )
    command.add_argument("--out", required=True, type=a_path, metavar="DIR", help="folder for the page")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    command.set_defaults(run=_demo)
    return command


def _demo(given: argparse.Namespace) -> int:
    made = make_demo(given.out, progress=shows_progress(given))
    print(made.table())
    for reason in made.missing:
        print(f"left out: {reason}", file=sys.stderr)
    print(f"open {made.path}")
    return 0
