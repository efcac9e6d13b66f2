"""The command line: parses, calls the library, prints."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from detxai.commands.bench import add_bench
from detxai.commands.coco import add_coco
from detxai.commands.demo import add_demo
from detxai.commands.evaluate import add_evaluate
from detxai.commands.explain import add_explain
from detxai.commands.families import add_families
from detxai.commands.methods import add_methods
from detxai.commands.options import INTERRUPTED, REFUSED, one_line
from detxai.runs.interrupting import stops_on_ctrl_c

COMMANDS = (add_explain, add_demo, add_coco, add_bench, add_evaluate, add_methods, add_families)
USER_ERRORS = (ValueError, TypeError, LookupError, ImportError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 some images failed, 2 refused, 130 interrupted."""
    logging.basicConfig(format="detxai: %(levelname)s: %(message)s")
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    for word in words:
        if word.startswith("--") and word.endswith("=--"):  # argparse before Python 3.12.5 takes it as no value at all
            parser.error(f"argument {word[:-3]}: expected a value, got '--'")
    given = parser.parse_args(words)
    try:
        with stops_on_ctrl_c():
            return int(given.run(given))
    except USER_ERRORS as error:
        if given.debug:
            raise
        _complain(error)
        return REFUSED
    except KeyboardInterrupt:
        print("detxai: interrupted; images already finished are kept", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="detxai", description="Explain object detections.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        command = add(commands)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _complain(error: Exception) -> None:
    print(f"detxai: error: {one_line(error)}", file=sys.stderr)
