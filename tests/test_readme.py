"""The README does what it says: its snippets and commands run, one after the other, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def script() -> str:
    """Every block of the README but those that install: Python as it stands, commands through ``detxai.cli.main``."""
    lines = ["import detxai.cli", "import matplotlib; matplotlib.use('Agg')"]
    for language, code in BLOCK.findall(README):
        if language:
            lines.append(code)
        elif "pip install" not in code:
            lines += [f"assert detxai.cli.main({shlex.split(command)[1:]!r}) == 0" for command in code.splitlines()]
    return "\n".join(lines)


def test_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    offline = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(tmp_path / "ultralytics")}
    user = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}  # ultralytics reads it
    done = subprocess.run(
        [sys.executable, "-c", script()],
        cwd=tmp_path,
        env={**user, **offline, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "house-sun" in done.stdout
    assert (tmp_path / "0.png").is_file()
    assert (tmp_path / "why" / "report.html").is_file()
    assert list(tmp_path.glob("runs/detect/*/detxai/curves.csv"))
    assert (tmp_path / "on_scenes" / "index.html").is_file()


def test_the_readme_has_blocks_of_both_kinds() -> None:
    languages = [language for language, _ in BLOCK.findall(README)]
    assert languages.count("python") >= 4
    assert languages.count("") >= 4


def test_what_the_readme_and_the_docs_link_to_exists() -> None:
    """Pages that the site makes have a source of another name: notebooks, and files beside docs/."""
    root = Path(__file__).parents[1]
    made = {root / "docs" / f"{name}.md" for name in ("changelog", "benchmarks", "contributing")}
    made |= {notebook.with_suffix(".md") for notebook in (root / "docs" / "tutorials").glob("*.ipynb")}
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"\$\$.*?\$\$", "", prose, flags=re.DOTALL)):
            named = (page.parent / target).resolve()
            assert target.startswith("http") or named.exists() or named in made, f"{page.name}: {target}"
