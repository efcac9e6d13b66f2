"""The page of a family of detectors: the notes in docs/families/NAME.md, and what the table of families says."""

from __future__ import annotations

import re

from detxai.adapters.attention import has_attention
from detxai.adapters.families import FAMILIES, Family
from detxai.adapters.network import NetworkDetector
from detxai.methods import METHODS


def family_page(name: str, written: str) -> str:
    """The whole page of a family in Markdown: the hand-written page, with a table of facts below its title.

    Raises:
        ValueError: no family has this name, or the page does not begin with a title.
    """
    title, _, notes = written.partition("\n")
    if not title.startswith("# "):
        raise ValueError(f"docs/families/{name}.md must begin with a title, got {title!r}")
    return f"{title}\n\n{_facts(_family(name))}\n\n{notes.strip()}\n"


def families_table() -> str:
    """Every family in the order in which they are tried, and what it supports."""
    rows = [
        f"| [{family.name}](families/{family.name}.md) | {_taken(family)} | {_yes(_has_network(family))} "
        f"| {_yes(has_attention(family.adapter))} | {_yes(family.ablation is not None)} | {_extra(family)} |"
        for family in FAMILIES
    ]
    head = "| family | `detxai.wrap` takes | features, gradients | attention | exact Ablation-CAM | install |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def methods_of(family: Family) -> list[str]:
    """The names of the methods whose needs the family meets; a method may still refuse a single model."""
    met = {"answers"}
    if _has_network(family):
        met |= {"network", "gradients"}
    if has_attention(family.adapter):
        met.add("attention")
    return [name for name, method in METHODS.items() if method.needs in met]


def _facts(family: Family) -> str:
    rows = {
        "`detxai.wrap` takes": _taken(family),
        "Install": _extra(family),
        "On the command line": _on_the_command_line(family),
        "Features and gradients": _yes(_has_network(family)),
        "Attention of queries": _yes(has_attention(family.adapter)),
        "Exact Ablation-CAM": "no" if family.ablation is None else f"recomputes {family.ablation}",
        "Methods": _methods(family),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {row} | {text} |" for row, text in rows.items())])


def _methods(family: Family) -> str:
    methods = methods_of(family)
    left = [name for name in METHODS if name not in methods]
    if len(left) <= 1:
        return "all" + "".join(f" but `{name}`" for name in left)
    return ", ".join(f"[`{name}`](../methods/{name}.md)" for name in methods)


def _family(name: str) -> Family:
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ValueError(f"docs/families/{name}.md is of no family: {', '.join(family.name for family in FAMILIES)}")


def _taken(family: Family) -> str:
    return re.sub(r"(?<!\w)(\.\w+)", r"`\1`", family.takes)


def _extra(family: Family) -> str:
    return "nothing more" if family.extra is None else f'`pip install "detxai[{family.extra}]"`'


def _on_the_command_line(family: Family) -> str:
    if family.builders:
        return ", ".join(f"`--model {builder}_...`" for builder in family.builders) + " with `--weights FILE`"
    if family.file:
        return f"`--model PATH`, {family.file}"
    return "`--model module:function`, a function that makes it"


def _has_network(family: Family) -> bool:
    return issubclass(family.adapter, NetworkDetector)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
