"""``detxai completion``: a script for a shell, made by shtab from the same parser that reads the arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from detxai.commands.choices import METHODS
from detxai.commands.options import a_path


def run(given: argparse.Namespace) -> int:
    """Print the script; the exit code."""
    print(script(given.shell))
    return 0


def script(shell: str) -> str:
    """The completion script for ``shell``.

    Raises:
        ImportError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError('detxai completion needs shtab: pip install "detxai[completion]"') from error
    from detxai.cli import make_parser  # which imports this room's arguments

    parser = make_parser()
    _remove_two_word_commands(parser)
    for action in _actions(parser):
        if action.type is a_path:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        elif action.dest == "model":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in ("method", "names"):
            action.choices = METHODS
    return str(shtab.complete(parser, shell))


def _remove_two_word_commands(parser: argparse.ArgumentParser) -> None:
    """``coco status`` and its like: a shell completes one word at a time, and shtab's scripts cannot hold them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in [name for name in action.choices if " " in name]:
                del action.choices[name]
            action._choices_actions = [one for one in action._choices_actions if " " not in one.dest]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in [name for name in action.choices if " " in name]:  # coco status: no shell completes two words
                del action.choices[name]
            action._choices_actions = [one for one in action._choices_actions if one.dest in action.choices]
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
