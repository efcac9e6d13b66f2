"""What the code imports is what ``pip install`` brings: nothing that happens to be there."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [file for room in ("detxai", "targets", "reshape") for file in sorted((ROOT / room).rglob("*.py"))]
NEEDS_AN_EXTRA = ("detxai/app/views/", "detxai/callbacks/lightning.py")  # imported where its extra is installed
BY_HAND = {"mlflow", "IPython"}  # a logger of the user's own; what a notebook runs in


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~\[;(]", requirement)[0]).lower()


def _imported(nodes: Iterable[ast.AST], also_inside_functions: bool) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not also_inside_functions:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
        else:
            yield from _imported(ast.iter_child_nodes(node), also_inside_functions)


def _brought_by() -> dict[str, set[str]]:
    """Which packages bring a module: Python 3.10 itself knows only of those that list their modules."""
    packages = {top: set(names) for top, names in packages_distributions().items()}
    for package in distributions():
        for top in {file.parts[0].removesuffix(".py") for file in package.files or []}:
            packages.setdefault(top, set()).add(package.metadata["Name"])
    return packages


def _undeclared(declared: set[str], *, also_inside_functions: bool) -> list[str]:
    brought_by = _brought_by()
    found = []
    for file in SOURCES:
        path = file.relative_to(ROOT).as_posix()
        for module in _imported([ast.parse(file.read_text(encoding="utf-8"))], also_inside_functions):
            top = module.partition(".")[0]
            packages = {_name(package) for package in brought_by.get(top, [top])}
            if top not in sys.stdlib_module_names | {"detxai"} | BY_HAND and not packages & declared:
                found.append(f"{path}: {module}")
    return found


def test_what_is_imported_at_once_comes_without_an_extra() -> None:
    """A clean environment has nothing else: an import that another package brought here fails there."""
    always = {_name(one) for one in requires("detxai") or [] if "extra ==" not in one}
    assert {"torch", "numpy", "pyyaml"} <= always
    missing = _undeclared(always, also_inside_functions=False)
    assert [one for one in missing if not one.startswith(NEEDS_AN_EXTRA)] == []


def test_what_is_imported_when_it_is_used_comes_with_some_extra() -> None:
    declared = {_name(one) for one in requires("detxai") or []}
    assert _undeclared(declared, also_inside_functions=True) == []
