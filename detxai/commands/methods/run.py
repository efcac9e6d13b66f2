"""``detxai methods``: every method with its question, its settings, what it needs and its cost in passes."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
from typing import Any

from detxai.explain import DEFAULT_METHOD, common_settings
from detxai.explanation import plain
from detxai.messages import did_you_mean
from detxai.methods import METHODS

NEEDS = {
    "answers": "answers: any detector",
    "network": "the network inside",
    "gradients": "gradients through the network",
    "attention": "queries with attention: DETR and its relatives",
}


def run(given: argparse.Namespace) -> int:
    """Print the methods; the exit code."""
    unknown = [name for name in given.names if name not in METHODS]
    if unknown:
        got = ", ".join(map(repr, unknown))
        raise ValueError(f"METHOD must be one of {sorted(METHODS)}, got {got}{did_you_mean(unknown[0], METHODS)}")
    descriptions = [describe(METHODS[name]) for name in given.names or METHODS]
    print(json.dumps(descriptions, indent=2) if given.json else "\n\n".join(map(_text, descriptions)))
    return 0


def describe(method: type[Any]) -> dict[str, Any]:
    """A method's class in words: name, summary, asks, needs, passes, and its settings with their defaults."""
    settings = {field.name: plain(_default(field)) for field in dataclasses.fields(method)}
    return {
        "name": method.name,
        "is_default": method.name == DEFAULT_METHOD,
        "summary": (inspect.getdoc(method) or "").partition("\n")[0].replace("``", ""),
        "asks": "box" if method.asks_about_boxes else "image",
        "needs": method.needs,
        "passes": method.passes,
        "settings": settings | common_settings(method),
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _text(method: dict[str, Any]) -> str:
    asks = "one map a box" if method["asks"] == "box" else "one map for the image, of no box"
    rows = {
        "asks": asks,
        "needs": NEEDS.get(method["needs"], method["needs"]),
        "passes": method["passes"],
        "settings": ", ".join(f"{name}={_shown(value)}" for name, value in method["settings"].items()),
    }
    head = f"{method['name']}{'  (the default)' if method['is_default'] else ''}\n  {method['summary']}"
    return "\n".join([head, *(f"  {row + ':':<10}{text}" for row, text in rows.items())])


def _shown(value: Any) -> str:
    """As ``--set`` takes it; a function by its own name."""
    return value.rpartition(":")[2] if isinstance(value, str) else json.dumps(value)
