"""The command line: reads the arguments, runs one command, says how it ended.

A command is a folder in ``commands/``: ``arguments.py`` imports nothing heavy, so that every ``--help`` is quick, and
``run.py`` is imported when the command runs.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from detxai.commands.app.arguments import add_app
from detxai.commands.bench.arguments import add_bench
from detxai.commands.coco.arguments import add_coco
from detxai.commands.coco_export.arguments import add_coco_export
from detxai.commands.coco_merge.arguments import add_coco_merge
from detxai.commands.coco_status.arguments import add_coco_status
from detxai.commands.completion.arguments import add_completion
from detxai.commands.concepts_attack.arguments import add_concepts_attack
from detxai.commands.concepts_channels.arguments import add_concepts_channels
from detxai.commands.concepts_find.arguments import add_concepts_find
from detxai.commands.concepts_learn.arguments import add_concepts_learn
from detxai.commands.config import with_config
from detxai.commands.demo.arguments import add_demo
from detxai.commands.doctor.arguments import add_doctor
from detxai.commands.evaluate.arguments import add_evaluate
from detxai.commands.explain.arguments import add_explain
from detxai.commands.families.arguments import add_families
from detxai.commands.methods.arguments import add_methods
from detxai.commands.options import EXIT_CODES, INTERRUPTED, REFUSED, one_line
from detxai.commands.parser import Parser, commands_of
from detxai.commands.version import PrintVersions
from detxai.runs.interrupting import stops_on_ctrl_c

COMMANDS = (
    add_explain,
    add_demo,
    add_coco,
    add_coco_status,
    add_coco_merge,
    add_coco_export,
    add_evaluate,
    add_concepts_learn,
    add_concepts_find,
    add_concepts_channels,
    add_concepts_attack,
    add_app,
    add_bench,
    add_methods,
    add_families,
    add_doctor,
    add_completion,
)
USER_ERRORS = (ValueError, TypeError, LookupError, ImportError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 some images failed, 2 refused, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = make_parser()
    for word in words:
        if word.startswith("--") and word.endswith("=--"):  # argparse before Python 3.12.5 takes it as no value at all
            parser.error(f"argument {word[:-3]}: expected a value, got '--'")
    try:
        given = parser.parse_args(with_config(words, commands_of(parser)))
    except USER_ERRORS as error:
        print(f"detxai: error: {one_line(error)}", file=sys.stderr)
        return REFUSED
    logging.basicConfig(format="detxai: %(levelname)s: %(message)s")
    try:
        with stops_on_ctrl_c():
            return int(importlib.import_module(f"detxai.commands.{given.command.replace(' ', '_')}.run").run(given))
    except USER_ERRORS as error:
        if given.debug:
            raise
        print(f"detxai: error: {one_line(error)}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("detxai: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; which one was given is in ``command``."""
    parser = Parser(
        prog="detxai",
        description="Explain object detections: which pixels made this detector put this box, with this class, here?",
        epilog=f"'detxai COMMAND --help' describes a command, with examples.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=PrintVersions, nargs=0, help="show the versions of detxai, Python, torch and others"
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for add in COMMANDS:
        add(commands)
    return parser
