"""Numbered folders: ``out``, ``out2``, ``out3``, ..., so that a new run writes over nothing that exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

ABOUT = "run.json"  # made before anything else: the process that makes it has the folder


def claim_folder(folder: Path, about: Mapping[str, Any]) -> Path:
    """``folder`` where it is absent or empty, else the first such of ``folder2``, ``folder3``, ...

    The folder is made, with a ``run.json`` that holds ``about``. Processes that ask at once get one each.
    """
    for place in _numbered(folder):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            continue
        place.mkdir(parents=True, exist_ok=True)
        try:
            with (place / ABOUT).open("x", encoding="utf-8") as file:
                json.dump(dict(about), file, indent=2)
        except FileExistsError:  # another process was quicker
            continue
        return place
    raise AssertionError  # the numbers do not end


def first_unused(folder: Path) -> Path:
    """The first of ``folder``, ``folder2``, ``folder3``, ... that is not there."""
    return next(place for place in _numbered(folder) if not place.exists())


def _numbered(folder: Path) -> Iterator[Path]:
    folder = folder.absolute()  # "." has no name to put a number behind
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}{number}")


def numbered_folders(folder: Path) -> list[Path]:
    """``folder`` and its numbered followers that exist, the newest first."""
    folder = folder.absolute()
    if not folder.parent.is_dir():
        return []
    numbers = {
        int(match[1] or 1): place
        for place in folder.parent.iterdir()
        if (match := re.fullmatch(re.escape(folder.name) + r"(\d*)", place.name)) and place.is_dir()
    }
    return [numbers[number] for number in sorted(numbers, reverse=True)]


def read_about(folder: Path) -> Mapping[str, Any]:
    """What a folder's ``run.json`` holds; empty where it has none that can be read."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
