"""Settings that several methods have in common, checked when a method is made."""

from __future__ import annotations


def check_target(target: object) -> None:
    """Raise ``TypeError`` where ``target`` cannot be called with a box and a label."""
    if not callable(target):
        raise TypeError(f"target must be callable with a box and a label, got {type(target).__name__}")


def check_flag(name: str, value: object) -> None:
    """Raise ``TypeError`` where the setting called ``name`` is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` where ``value`` is no whole number from ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")


def check_seed(seed: object, *, from_zero: bool = False) -> None:
    """Raise ``TypeError`` where ``seed`` is no whole number; ``ValueError`` where it is negative and may not be."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be a whole number, got {seed!r}")
    if from_zero and seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
