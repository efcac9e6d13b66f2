"""The house stands: arrows point down, the wheel holds the package, examples in docstrings are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

import detxai

ROOT = Path(__file__).parents[1]
FLOORS = (  # from the ground up: a floor uses only itself and the floors below it
    {
        "detections",
        "explanation",
        "geometry",
        "images",
        "formats",
        "low_pass",
        "messages",
        "progress",
        "runs",
        "settings",
    },
    {"targets", "reshape"},
    {"adapters"},
    {"engine"},
    {"methods"},
    {"explain", "low_passed", "metrics", "data", "pages"},
    {"bench", "evaluate", "demo"},
    {"callbacks", "coco", "concepts"},
    {"app", "commands", "cli"},
)
LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}
MOST_FILES = 13  # of a room, beside its sub-rooms: with more, a sub-room with a name is missing
EXCEPTIONS = {("explanation", "pages")}  # Explanation.save draws
MAY_USE_SCENES = {
    "detxai/app/pictures.py",
    "detxai/adapters/models_by_name.py",
    "detxai/commands/doctor/self_test.py",
    "detxai/concepts/learned/images.py",
    "detxai/demo/run.py",
    "detxai/demo/scene_pictures.py",
    "detxai/demo/stories.py",
    "detxai/demo/texts.py",
    "detxai/evaluate/photos/scene_photos.py",
}


def sources() -> list[Path]:
    return [file for room in ("detxai", "targets", "reshape") for file in sorted((ROOT / room).rglob("*.py"))]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def room_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "detxai" else parts[1]


def imports(file: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions; ``from a import b`` counts as ``a.b``."""
    yield from _imported_by(ast.walk(ast.parse(file.read_text(encoding="utf-8"))), file)


def _imported_by(nodes: Iterable[ast.AST], file: Path) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_when_run(file: Path) -> Iterator[str]:
    """As ``imports``, without those for type checkers alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    yield from _imported_by((node for node in ast.walk(tree) if id(node) not in for_checkers), file)


@pytest.mark.parametrize("file", [f for f in sources() if room_of(f) not in ("__init__", "__main__")], ids=name)
def test_imports_point_down(file: Path) -> None:
    here = room_of(file)
    for module in imports(file):
        if not module.startswith("detxai."):
            continue
        there = module.split(".")[1]
        if there == "scenes":
            assert here == "scenes" or name(file) in MAY_USE_SCENES, module
        elif here == "scenes":
            assert LEVEL[there] == 0, f"scenes stand beside: {module}"
        elif (here, there) not in EXCEPTIONS:
            assert LEVEL[there] <= LEVEL[here], f"{here} is below {module}"


def modules() -> dict[str, Path]:
    """Name -> file of everything that ships."""
    named = {}
    for file in sources():
        parts = file.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "detxai" else ("detxai", *parts)
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


def is_the_way_up(here: str, there: str) -> bool:
    return any(here.startswith(f"detxai.{a}") and there.startswith(f"detxai.{b}") for a, b in EXCEPTIONS)


def test_no_files_import_one_another_in_circles() -> None:
    named = modules()
    below: dict[str, set[str]] = {name: set() for name in named}
    for here, file in named.items():
        for there in imports_when_run(file):
            while there and there not in named:
                there = there.rpartition(".")[0]
            if there and there != here and not is_the_way_up(here, there):
                below[here].add(there)
    while leaves := [here for here, imported in below.items() if not imported & below.keys()]:
        for leaf in leaves:
            del below[leaf]
    assert not below, f"circles among {sorted(below)}"


def test_no_room_is_crowded() -> None:
    rooms: dict[Path, int] = {}
    for file in sources():
        if not file.stem.startswith("__"):
            rooms[file.parent] = rooms.get(file.parent, 0) + 1
    assert not {name(room): n for room, n in rooms.items() if n > MOST_FILES}


@pytest.mark.parametrize("file", sources(), ids=name)
def test_only_adapters_and_scenes_know_vendors(file: Path) -> None:
    vendors = {m for m in imports(file) if m.startswith(("ultralytics", "torchvision.models"))}
    if room_of(file) in ("adapters", "scenes"):
        return
    assert not vendors or (
        name(file) == "detxai/formats/ultralytics.py" and vendors == {"ultralytics.engine.results.Results"}
    )


@pytest.mark.parametrize("file", [f for f in sources() if room_of(f) not in ("cli", "commands")], ids=name)
def test_nothing_below_the_command_line_prints(file: Path) -> None:
    calls = (node.func for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    assert not any(isinstance(called, ast.Name) and called.id == "print" for called in calls)


def test_importing_detxai_leaves_the_heavy_friends_alone() -> None:
    heavy = (
        "ultralytics",
        "pytorch_grad_cam",
        "pycocotools",
        "matplotlib.pyplot",
        "pyarrow",
        "lightning",
        "captum",
        "transformers",
        "sahi",
        "streamlit",
        "sklearn",
    )
    code = f"import sys, detxai; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_what_the_package_names_is_there() -> None:
    for public in detxai.__all__:
        assert getattr(detxai, public) is not None


@pytest.mark.parametrize(
    "module",
    sorted(
        module.name
        for package in (detxai, detxai.targets, detxai.reshape)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith("__main__")
    ),
)
def test_docstring_examples(module: str) -> None:
    if module.startswith("detxai.app.views."):
        pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")
    result = doctest.testmod(importlib.import_module(module), extraglobs={"torch": torch})
    assert result.failed == 0


def test_the_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(
        r"^python -m pip install .*python -m pytest -n 2 --dist loadfile$", readme, flags=re.MULTILINE
    )
    assert f"bash -c '{command}'" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_ci_runs_tests_that_are_there_on_all_threads_and_without_vector_units() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    (names,) = re.findall(r"^computed=\((.+)\)$", script, flags=re.MULTILINE)
    assert all((ROOT / name).exists() for name in names.split())
    for variables in ("DETXAI_TEST_THREADS=machine", "ATEN_CPU_CAPABILITY=default"):
        assert re.search(
            rf'^{variables} .*pytest -q (-n 2 --dist loadfile )?"\$\{{computed', script, flags=re.MULTILINE
        )


def test_the_readmes_pictures_and_files_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"\]\((docs/[^)]+)\)|`((?:detxai|targets|reshape|examples)/[\w/.]*)`", readme):
        assert (ROOT / (path[0] or path[1])).exists(), path


def test_the_wheel_holds_exactly_the_packages_files(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of files to compare with")
    files = [file for file in listed.stdout.splitlines() if (ROOT / file).is_file()]
    for file in files:
        copy = tmp_path / "source" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / file).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    built = subprocess.run([*command, str(tmp_path / "source")], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {entry for entry in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in entry}
    expected = {f"detxai/{file}" if file.startswith(("targets/", "reshape/")) else file for file in files}
    assert held == {file for file in expected if file.startswith("detxai/")}
