"""The parser of arguments: its errors name the nearest command or option, and the help that lists them all."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from detxai.messages import did_you_mean


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that also takes commands of two words, such as ``coco status``."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if " ".join(words[:2]) in commands_of(self):
            words[:2] = [" ".join(words[:2])]
        return super().parse_known_args(words, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual; what no command knows is an error of the command that was given."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = commands_of(self).get(getattr(given, "command", None) or "", self)
            options = [option for action in command._actions for option in action.option_strings]
            hints = [did_you_mean(word.partition("=")[0], options) for word in unknown if word.startswith("--")]
            command.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
        return given

    def error(self, message: str) -> NoReturn:
        """Exit with 2, the error as the last line. Of a command with many options the usage would hide it."""
        self.exit(2, f"'{self.prog} --help' lists what it takes, with examples\n{self.prog}: error: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices or ()))
            raise


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    return {
        name: command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, command in action.choices.items()
    }
