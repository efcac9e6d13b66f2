"""Settings by name, as a command line or a script gives them: checked against the types they are declared with."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from detxai.messages import did_you_mean, short_repr

LARGEST = 10_000_000  # of a count: what is larger is a mistake, and would fill the memory
LARGEST_SEED = 2**63 - 1


def check_settings(name: str, kind: type[Any], settings: Mapping[str, Any]) -> None:
    """Raise where ``kind``, a dataclass that goes under ``name``, has no such setting or takes no such value.

    Whole numbers must lie in [0, 10,000,000] (a seed: below 2**63), numbers must be finite; what else a setting asks
    for is for ``kind`` itself to check.

    Raises:
        ValueError: an unknown setting, or a value out of range; the message names the setting.
        TypeError: a value of another type; the message names the setting and what it takes.

    >>> from detxai.geometry import Geometry
    >>> check_settings("geometry", Geometry, {"cell_centre": "middle"})
    Traceback (most recent call last):
    ...
    TypeError: cell_centre must be a number, got 'middle'
    """
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"{name} has the settings {known}, got {', '.join(unknown)}{did_you_mean(unknown[0], known)}")
    hints = get_type_hints(kind)
    for setting, value in settings.items():
        if not _fits(value, hints[setting]):
            raise TypeError(f"{setting} must be {_words(hints[setting])}, got {short_repr(value)}")
        _check_range(setting, value, counts=_holds(hints[setting], int))


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str)  # which words there are, the dataclass tells better
    if origin is tuple:
        return isinstance(value, (list, tuple)) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(one, inner[0]) for one in value)
    if origin is Callable:
        return callable(value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _holds(hint: Any, kind: type[Any]) -> bool:
    return hint is kind or any(_holds(one, kind) for one in get_args(hint))


def _check_range(setting: str, value: Any, *, counts: bool) -> None:
    largest = LARGEST_SEED if setting == "seed" else LARGEST
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, int) and counts and one < 0:
            raise ValueError(f"{setting} must not be negative, got {short_repr(one)}")
        if isinstance(one, int) and abs(one) > largest:
            raise ValueError(f"{setting} must not exceed {largest}, got {short_repr(one)}")
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"{setting} must be finite, got {one}")


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(dict.fromkeys(map(_words, inner)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is tuple:
        return f"a list of {len(inner)}, each {_words(inner[0])}"
    if origin is Sequence:
        return f"a list, each {_words(inner[0])}"
    if origin is Callable:
        return "a function"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint) or str(getattr(hint, "__name__", hint))
