"""What several commands take, and how it is read. Imports nothing heavy: every ``--help`` reads it."""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detxai.data.given_paths import expect_file
from detxai.messages import short_repr
from detxai.runs.remote.address import Address, is_address
from detxai.settings import LARGEST, LARGEST_SEED

FAILED, REFUSED, INTERRUPTED = 1, 2, 130  # exit codes: some images failed; nothing was done; Ctrl-C
LARGEST_AMOUNT = 1e15  # of square pixels and scores
LONGEST_LINE = 2000  # characters of an error message: it may quote a long argument
LONGEST_PATH, LONGEST_NAME = 4096, 255
LARGEST_SIDE = 65_536  # of an image
WIDEST = 100  # columns of a description in a help
EXIT_CODES = """exit codes:
  0    done
  1    some images failed, or the disk became full; what was finished is kept
  2    refused, or nothing could be done; the message says what to change
  130  stopped by Ctrl-C; what was finished is kept"""


def new_command(
    commands: Any, name: str, *, summary: str, description: str, examples: str = ""
) -> argparse.ArgumentParser:
    """The parser of one command. Its help ends with ``examples``, one ``detxai ...`` a line, and the exit codes."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, min(WIDEST, shutil.get_terminal_size().columns) - 2),
        epilog="\n\n".join([f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}", EXIT_CODES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(parser=command)  # what --config and run.yaml hold is read from it
    command.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return command


def setting(text: str) -> tuple[str, Any]:
    """``name=value``, the value read as JSON where it is JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {short_repr(text)}")
    try:
        return name, json.loads(value, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return name, value


def _not_json(constant: str) -> None:
    raise ValueError(constant)


def no_repeats(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(settings)
    if len(named) < len(settings):
        raise ValueError(f"--set: each name once, got {', '.join(name for name, _ in settings)}")
    return named


def a_path(text: str) -> Path:
    """A path that the file system can look up; others would fail later, without naming the argument."""
    if "\0" in text or len(text) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in re.split(r"[\\/]", text)):
        raise argparse.ArgumentTypeError(f"expected a path that this system can have, got {short_repr(text)}")
    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"expected a path on this machine, got {short_repr(text)}: only --images and --out of detxai coco take an "
            "address"
        )
    return Path(text)


def a_path_or_address(text: str) -> Path | Address:
    """A path, or an address that fsspec reaches, such as ``s3://bucket/folder``."""
    if not is_address(text):
        return a_path(text)
    if "\0" in text or len(text) > LONGEST_PATH:
        raise argparse.ArgumentTypeError(f"expected an address such as s3://bucket/folder, got {short_repr(text)}")
    try:
        return Address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def fraction(text: str) -> float:
    """A number in [0, 1]."""
    value = _float(text)
    if not 0 <= value <= 1:  # also where it is NaN
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1], got {short_repr(text)}")
    return value


def amount(text: str) -> float:
    """A finite number from 0."""
    value = _float(text)
    if not 0 <= value <= LARGEST_AMOUNT:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {LARGEST_AMOUNT:g}, got {short_repr(text)}")
    return value


def comma_separated(text: str) -> list[str]:
    """Words with commas between."""
    return [word.strip() for word in text.split(",") if word.strip()]


def names_with_commas(text: str) -> list[str]:
    """Names with commas between, none of them empty."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, got {text!r}")
    return names


def whole(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """Reads a whole number from ``least`` to ``most``: what is larger is a mistake, and would fill the memory."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"\+?[0-9]{1,20}", text.strip()) else -1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {short_repr(text)}")
        return value

    return read


def places(text: str) -> list[int]:
    """Numbers from 0, with commas between, each once."""
    numbers = [whole(0)(word) for word in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"expected each number once, got {short_repr(text)}")
    return numbers


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_config_option(command: argparse._ActionsContainer) -> None:
    """``--config``; ``detxai.commands.config`` reads it before the arguments are read."""
    command.add_argument(
        "--config", type=a_path, metavar="FILE",
        help="a YAML file of options, such as the run.yaml that a run leaves in its folder: 'max-images: 20'; options "
        "on the command line win over those in it",
    )  # fmt: skip


def add_method_settings(command: argparse._ActionsContainer) -> None:
    """``--set``, ``--seed`` and ``--batch-size``, for commands that take one method."""
    command.add_argument(
        "--set", action="append", default=[], type=setting, metavar="NAME=VALUE", dest="settings",
        help="a setting of the method, such as n_masks=500 or layers=model.15; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), metavar="N",
        help="the seed of what the method draws at random; methods that draw nothing give the same map with any",
    )  # fmt: skip
    add_batch_size(command)


def add_batch_size(command: argparse._ActionsContainer) -> None:
    """``--batch-size``, for commands that explain."""
    command.add_argument(
        "--batch-size", type=whole(1), metavar="N",
        help="the images in one pass of a method that makes many; default: what fits in memory",
    )  # fmt: skip


def add_output_options(command: argparse.ArgumentParser) -> None:
    """``--json`` and ``--no-progress``."""
    command.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_progress_option(command)


def add_progress_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-progress", action="store_true", help="show no progress bar")


def shows_progress(given: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not given.no_progress


def read_class_names(path: Path) -> dict[int, str] | list[str]:
    expect_file(path, "--class-names")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [line.strip() for line in text.rstrip().splitlines()]
        names = json.loads(text)
        if isinstance(names, dict):
            return {int(label): str(name) for label, name in names.items()}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--class-names: {path} cannot be read: {error}") from error
    if not isinstance(names, list):
        raise ValueError(f"--class-names: {path} must hold a list or {{label: name}}, got {type(names).__name__}")
    return [str(name) for name in names]


def one_line(error: BaseException) -> str:
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE // 2]} ... {text[-LONGEST_LINE // 4 :]}"
