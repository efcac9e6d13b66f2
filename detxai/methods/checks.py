"""Checks of settings that several methods share; each raises where a setting is wrong, when the method is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal


def check_target(target: object) -> None:
    """Raise ``TypeError`` where ``target`` cannot be called with a box and a label."""
    if not callable(target):
        raise TypeError(f"target must be callable with a box and a label, got {type(target).__name__}")


def check_flag(name: str, value: object) -> None:
    """Raise ``TypeError`` where the setting called ``name`` is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ``ValueError`` where ``value`` is none of the choices."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` where ``value`` is no whole number from ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")


def check_fraction(name: str, value: float, interval: Literal["(0, 1)", "(0, 1]", "[0, 1)", "[0, 1]"]) -> None:
    """Raise ``ValueError`` where ``value`` lies outside the interval; a round bracket leaves its end out."""
    above = value >= 0 if interval[0] == "[" else value > 0
    below = value <= 1 if interval[-1] == "]" else value < 1
    if not (above and below):
        raise ValueError(f"{name} must lie in {interval}, got {value!r}")


def check_number(name: str, value: float, *, above: float | None = None) -> None:
    """Raise ``ValueError`` where ``value`` is no finite number from 0, or not above ``above``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < float("inf"):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if above is None and not value >= 0:
        raise ValueError(f"{name} must be a number from 0, got {value!r}")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be a number above {above}, got {value!r}")


def check_seed(seed: object, *, from_zero: bool = False) -> None:
    """Raise ``TypeError`` where ``seed`` is no whole number; ``ValueError`` where it is negative and may not be."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be a whole number, got {seed!r}")
    if from_zero and seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
