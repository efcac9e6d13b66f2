"""The page of a notebook: its text and code, and what the code printed and drew when it was run.

A notebook is kept without outputs. ``python docs/make/run_notebooks.py`` runs it and keeps them beside it, in
``docs/tutorials/outputs/NAME.json`` and its pictures, with a digest of the code that made them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def notebook_page(notebook: Path) -> str:
    """A notebook as Markdown.

    Raises:
        ValueError: its outputs are missing, or were made by other code.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    file = outputs_file(notebook)
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if kept.get("code") != digest_of_code(cells):
        raise ValueError(f"{notebook.name} was changed since it was run: python docs/make/run_notebooks.py {notebook}")
    outputs = iter(kept["outputs"])
    parts = [source(cell) if cell["cell_type"] == "markdown" else _code(cell, next(outputs)) for cell in cells]
    title, *rest = parts
    return "\n\n".join([title, _where(notebook), *rest])


def outputs_file(notebook: Path) -> Path:
    """Where the outputs of a notebook are kept."""
    return notebook.parent / "outputs" / f"{notebook.stem}.json"


def digest_of_code(cells: list[dict[str, Any]]) -> str:
    """A digest of the code cells: outputs are of this code and no other."""
    code = "\n\n".join(source(cell) for cell in cells if cell["cell_type"] == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def source(cell: dict[str, Any]) -> str:
    """The text of a cell, which the file keeps as one string or as lines."""
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def _code(cell: dict[str, Any], outputs: list[dict[str, str]]) -> str:
    return "\n\n".join([f"```python\n{source(cell)}\n```", *map(_output, outputs)])


def _output(output: dict[str, str]) -> str:
    if "picture" in output:
        return f"![{output['alt']}](outputs/{output['picture']})"
    if "html" in output:
        return f'<div class="output" markdown="0">{output["html"]}</div>'
    return "\n".join(["``` { .text .output }", output["text"].rstrip(), "```"])


def _where(notebook: Path) -> str:
    return (
        f"*This page is the notebook `docs/tutorials/{notebook.name}`, and what it printed and drew when it was run.*"
    )
