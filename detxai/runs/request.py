"""What a run was asked for: compared with what is asked now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def differences(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """What differs, in words.

    >>> differences({"seed": 0, "steps": 9}, {"seed": 1, "steps": 9})
    'seed: saved 0, requested 1'
    """
    names = [name for name in {**saved, **requested} if saved.get(name) != requested.get(name)]
    return "; ".join(
        f"{name}: saved {_short(saved.get(name))}, requested {_short(requested.get(name))}" for name in names
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
