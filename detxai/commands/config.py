"""``--config FILE``: a command's options in a YAML file, and the file that repeats a command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from detxai.data.given_paths import expect_file
from detxai.messages import did_you_mean, short_repr
from detxai.runs.files import write_text

LEFT_OUT = {"debug", "config", "json", "no_progress", "dry_run", "shard", "retry_failed", "widen"}  # of one call alone


def with_config(words: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """The words of a command line, those of its ``--config`` file before its own, so that its own win.

    Args:
        words: of the command line, without the program.
        commands: the parser of each command, by its name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a YAML file of options, or has one that the command does not have.
    """
    command = next((word for word in words if word in commands), None)
    path = _config_path(words)
    if command is None or path is None:
        return list(words)
    after = list(words).index(command) + 1
    own = list(words[after:])
    from_file = words_of(read_config(path), commands[command], path)
    return [*words[:after], *_without_settings_of(own, from_file), *own]


def read_config(path: Path) -> dict[str, Any]:
    """The content of a YAML file of options.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or holds no options.
    """
    import yaml  # a help need not wait for it

    expect_file(path, "--config")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"--config: {path} must hold one 'option: value' a line, got {short_repr(content)}")
    return content


def words_of(config: Mapping[str, Any], parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """The options of a file as words of a command line.

    Args:
        config: option, with ``-`` or ``_``, -> value: text, a number, true or false, a list, and for ``set`` and other
            repeated options a mapping of names to values.
        parser: of the command.
        path: of the file, for messages.

    Raises:
        ValueError: the command has no such option, or it takes no such value.
    """
    words: list[str] = []
    named = {name: action for action in _options(parser) for name in _names(action)}
    for name, value in config.items():
        action = named.get(name.replace("_", "-"))
        if action is None:
            hint = did_you_mean(name, named)
            raise ValueError(f"--config: {path} has {short_repr(name)}, which {parser.prog} does not take{hint}")
        words += _words(action, value, f"--config: {path}: {name}")
    return words


def config_of(given: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The YAML file that repeats a command: every option that was given, paths in full."""
    import yaml  # a help need not wait for it

    content: dict[str, Any] = {}
    for action in _options(parser):
        value = getattr(given, action.dest, action.default)
        if action.dest not in LEFT_OUT and value != action.default:
            content[_names(action)[0]] = _as_yaml(action.dest, value)
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return f"# {parser.prog} --config run.yaml repeats this run; options beside it win over those in here\n{text}"


def write_config(given: argparse.Namespace, path: Path) -> None:
    """Write the file that repeats a command, where the folder of the run has none.

    Raises:
        WriteError: it cannot be written.
    """
    if path.exists():
        return
    write_text(path, config_of(given, given.parser))


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.dest not in ("help", "config", "version")]


def _names(action: argparse.Action) -> list[str]:
    """What an option is called in a file: its long names, the first being the one that is written."""
    long = [name[2:] for name in action.option_strings if name.startswith("--")]
    return long or [action.dest]


def _words(action: argparse.Action, value: Any, where: str) -> list[str]:
    if not action.option_strings:  # without a flag, as the images of detxai explain
        return [_text(one, where) for one in (value if isinstance(value, list) else [value])]
    flag = f"--{_names(action)[0]}"
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{where} must be true or false, got {short_repr(value)}")
        return [flag] if value else []
    if value is True and action.nargs == "?":
        return [flag]
    if isinstance(value, dict):
        if not isinstance(action.default, list):
            raise ValueError(f"{where} must be one value, got {short_repr(value)}")
        return [f"{flag}={name}={one if isinstance(one, str) else json.dumps(one)}" for name, one in value.items()]
    return [f"{flag}={','.join(_text(one, where) for one in (value if isinstance(value, list) else [value]))}"]


def _text(value: Any, where: str) -> str:
    if value is None or isinstance(value, (bool, list, dict)):
        raise ValueError(f"{where} must be text, a number or a list of them, got {short_repr(value)}")
    return str(value)


def _as_yaml(name: str, value: Any) -> Any:
    if name == "settings":
        return {_setting_name(entry): _setting_value(entry) for entry in value}
    if name == "slices":
        return f"{value.rows},{value.columns},{value.overlap}"
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, (list, tuple)):
        return [_as_yaml("", one) for one in value] or True  # an option that needs no value was given without one
    if isinstance(value, (bool, int, float)):
        return value
    if name == "model" and Path(value).exists():
        return str(Path(value).absolute())
    return str(value)


def _setting_name(entry: Any) -> str:
    name, value = entry
    return f"{name}.{value[0]}" if isinstance(value, tuple) else str(name)


def _setting_value(entry: Any) -> Any:
    value = entry[1]
    return value[1] if isinstance(value, tuple) else value


def _config_path(words: Sequence[str]) -> Path | None:
    for place, word in enumerate(words):
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
        if word == "--config" and place + 1 < len(words):
            return Path(words[place + 1])
    return None


def _without_settings_of(own: Sequence[str], from_file: Sequence[str]) -> list[str]:
    """The words of a file without the settings that the command line gives too: each may be given once."""
    given = [word for flag, word in pairwise(own) if flag == "--set"]
    given += [word.removeprefix("--set=") for word in own if word.startswith("--set=")]
    names = {entry.partition("=")[0] for entry in given}
    return [w for w in from_file if not (w.startswith("--set=") and w.split("=")[1] in names)]
