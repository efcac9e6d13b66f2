"""``detxai demo``: the bundled detectors explain the bundled scenes."""

from __future__ import annotations

import argparse
import sys

from detxai.commands.options import shows_progress
from detxai.demo.run import make_demo


def run(given: argparse.Namespace) -> int:
    """Make the page; the exit code."""
    made = make_demo(given.out, progress=shows_progress(given))
    print(made.table())
    for reason in made.missing:
        print(f"left out: {reason}", file=sys.stderr)
    print(f"open {made.path}")
    return 0
