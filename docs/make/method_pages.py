"""The page of a method: what is written by hand in docs/methods/NAME.md, and what its class says of itself."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from detxai.commands.methods.run import NEEDS, describe
from detxai.methods import METHODS

DOCS = Path(__file__).parents[1]
SECTIONS = ("What it asks", "Definition", "When it misleads")
SIGNED = "with a sign: below zero is evidence against the box, drawn in blue"
UNSIGNED = "pictures show the positive part, over its peak"


def method_page(name: str, written: str) -> str:
    """The whole page of a method in Markdown.

    Args:
        name: as in ``METHODS``.
        written: the sections of ``SECTIONS``, by hand.

    Raises:
        ValueError: a section is missing, or another one is there.
    """
    method = METHODS[name]
    titles = tuple(re.findall(r"^## (.+)$", written, flags=re.MULTILINE))
    if titles != SECTIONS:
        raise ValueError(f"docs/methods/{name}.md must have the sections {SECTIONS}, got {titles}")
    asks_and_defines, _, misleads = written.partition(f"## {SECTIONS[-1]}")
    return "\n\n".join(
        [
            f"# `{name}`",
            f"*{summary(method)}*",
            asks_and_defines.strip(),
            f"## Cost\n\n{_facts(name)}",
            f"## {SECTIONS[-1]}\n{misleads.rstrip()}",
            f"## On the same three images\n\n{_picture(name)}",
            f"## Reference\n\n{reference(method)}",
            f"## Settings\n\n::: {method.__module__}.{method.__qualname__}\n"
            "    options: {heading_level: 3, members: false, show_bases: false, show_root_full_path: false}",
        ]
    )


def methods_table() -> str:
    """Every method, what it asks and needs, and its cost in passes."""
    rows = [
        f"| [`{name}`](methods/{name}.md) | {'the box' if method.asks_about_boxes else 'the image'} "
        f"| {NEEDS[method.needs]} | {_cell(method.passes)} |"
        for name, method in METHODS.items()
    ]
    return "\n".join(["| method | explains | needs | passes |", "|---|---|---|---|", *rows])


def summary(method: type[Any]) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(method) or "").partition("\n")[0].replace("``", "`")


def reference(method: type[Any]) -> str:
    """The paragraph of its docstring that begins with ``Source:``.

    Raises:
        ValueError: there is none.
    """
    paragraphs = (inspect.getdoc(method) or "").split("\n\n")
    sources = [paragraph for paragraph in paragraphs if paragraph.startswith("Source:")]
    if not sources:
        raise ValueError(f"the docstring of {method.__qualname__} must name its source")
    return " ".join(sources[0].removeprefix("Source:").split()).replace("``", "`")


def _facts(name: str) -> str:
    method, listed = METHODS[name], describe(METHODS[name])
    settings = ", ".join(f"`{setting}`" for setting in listed["settings"]) or "none"
    signed = SIGNED if getattr(method, "is_signed", False) else UNSIGNED
    rows = {
        "Passes": _cell(method.passes),
        "Needs": NEEDS[method.needs],
        "Gives": "one map for each box" if method.asks_about_boxes else "one map for the image, and none of a box",
        "Values": signed,
        "Settings": settings,
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {row} | {text} |" for row, text in rows.items())])
    setting = f" --set {method.needs_file}=FILE" if hasattr(method, "needs_file") else ""
    command = f"detxai explain street.jpg --model best.pt --method {name}{setting} --out maps"
    return f"{table}\n\n```\n{command}\n```"


def _picture(name: str) -> str:
    is_drawn = (DOCS / "pictures" / "methods" / f"{name}.webp").exists()
    if hasattr(METHODS[name], "needs_file") and not is_drawn:
        return f"There is none: the file that `{METHODS[name].needs_file}` names is trained for a detector of your own."
    if not is_drawn:
        raise ValueError(f"there is no picture of {name}: run python docs/make/method_pictures.py {name}")
    return (
        f"![Three scenes, the box asked about, and the map of {name} for it](../pictures/methods/{name}.webp)\n\n"
        "What is planted in these scenes, and why these three: [the three images](../three_images.md)."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
