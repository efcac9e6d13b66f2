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
