"""Tables of the measures, from what each says of its quantities."""

from __future__ import annotations

import inspect
import math

from method_pages import reference

from detxai.metrics import MEASURES, Measure, Quantity


def measure_tables() -> str:
    """For every measure: what it is, a row for each number that it gives, and its source."""
    return "\n\n".join(_section(name, measure) for name, measure in MEASURES.items())


def _section(name: str, measure: type[Measure]) -> str:
    first = (inspect.getdoc(measure) or "").partition("\n\n")[0].replace("``", "`")
    levels = {quantity.chance for quantity in measure.quantities.values()}
    rows = [
        f"| `{key}` | {quantity.meaning} | {_span(quantity)} | {quantity.better} | {_chance(quantity)} |"
        for key, quantity in measure.quantities.items()
        if key not in levels and quantity.better is not None
    ]
    table = "\n".join(["| number | what it is | range | better | a random map has |", "|---|---|---|---|---|", *rows])
    return f"### `{name}`\n\n{' '.join(first.split())}\n\n{table}\n\nSource: {reference(measure)}"


def _span(quantity: Quantity) -> str:
    return f"{_number(quantity.low)} to {_number(quantity.high)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:g}"


def _chance(quantity: Quantity) -> str:
    if quantity.chance is None:
        return "no fixed level: compare with the method `random`"
    if isinstance(quantity.chance, str):
        return f"`{quantity.chance}`, computed for each box"
    return f"{quantity.chance:.3g}"
