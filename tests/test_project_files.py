"""The files around the code: what they must say, and that every system can hold them."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from detxai.cli import make_parser
from detxai.commands.options import EXIT_CODES, FAILED, INTERRUPTED, REFUSED

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
KINDS_OF_CHANGE = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}  # Keep a Changelog's


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def version() -> str:
    (found,) = re.findall(r'^version = "(.+)"$', read("pyproject.toml"), flags=re.MULTILINE)
    return str(found)


def test_the_citation_has_what_its_schema_requires() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert all(isinstance(citation[field], str) and citation[field] for field in ("title", "message"))
    assert citation["authors"]
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["type"] in ("software", "dataset")
    assert citation["version"] == version()
    assert f'license = "{citation["license"]}"' in read("pyproject.toml")


def test_the_changelog_keeps_its_form() -> None:
    text = read("CHANGELOG.md")
    versions = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, flags=re.MULTILINE)
    assert versions == re.findall(r"^## \[?([^\]\n]+)", text, flags=re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", one) for one in versions[1:])
    for section in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.+)$", section, flags=re.MULTILINE)
        assert set(kinds) <= KINDS_OF_CHANGE
        assert not [kind for kind, n in Counter(kinds).items() if n > 1]


def test_the_version_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version())


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_issue_forms_are_what_github_reads(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.name == "config.yml":
        assert isinstance(content["blank_issues_enabled"], bool)
        return
    assert content["name"]
    assert content["description"]
    names = [part["id"] for part in content["body"]]
    assert len(names) == len(set(names)) > 0
    assert all(part["type"] in ("textarea", "input", "dropdown", "checkboxes") for part in content["body"])
    assert all(part["attributes"]["label"] for part in content["body"])


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"])
def test_what_the_community_pages_link_to_exists(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_contributing_sets_up_as_the_readme_does() -> None:
    (command,) = re.findall(r"^python -m pip install .*loadfile$", read("CONTRIBUTING.md"), flags=re.MULTILINE)
    assert command in read("README.md")


def test_the_command_line_page_has_every_command_and_exit_code() -> None:
    page = read("docs/command_line.md")
    (found,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert [name for name in found.choices if f"| `detxai {name}" not in page] == []
    for code in (0, FAILED, REFUSED, INTERRUPTED):
        assert re.search(rf"^\| {code} \|", page, flags=re.MULTILINE)
        assert re.search(rf"^  {code} +\w", EXIT_CODES, flags=re.MULTILINE)


def test_no_two_files_differ_only_in_case() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of files")
    counts = Counter(path.casefold() for path in listed.stdout.splitlines())
    assert not [path for path, n in counts.items() if n > 1]
