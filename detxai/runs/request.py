"""The request that a run was started with: read back, and compared with the one made now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_request(path: Path) -> dict[str, Any]:
    """The content of a request file.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"out: {path} is damaged; give a new folder") from error
    if not isinstance(content, dict):
        raise ValueError(f"out: {path} is damaged; give a new folder")
    return content


def differences(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """What differs, in words; empty where nothing does.

    >>> differences({"seed": 0, "steps": 9}, {"seed": 1, "steps": 9})
    'seed: saved 0, requested 1'
    """
    names = different_entries(saved, requested)
    return "; ".join(
        f"{name}: saved {_short(saved.get(name))}, requested {_short(requested.get(name))}" for name in names
    )


def different_entries(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """The names of the entries that differ, in the order of ``saved``.

    >>> different_entries({"seed": 0, "steps": 9}, {"seed": 0, "n": 2})
    ['steps', 'n']
    """
    return [name for name in {**saved, **requested} if saved.get(name) != requested.get(name)]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
