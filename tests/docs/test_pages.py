"""The site is complete, and what it shows was made by the code that is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from family_pages import family_page, methods_of
from mathml import with_mathml
from measure_tables import measure_tables
from method_pages import method_page, methods_table
from notebook_pages import digest_of_code, notebook_page

from detxai.adapters.families import FAMILIES
from detxai.methods import METHODS
from detxai.metrics import MEASURES

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
NEEDS = {
    "evaluation.md": "pyarrow",
    "extending.md": "captum",
    "families/yolo.md": "ultralytics",
    "families/transformers.md": "transformers",
}
WITHOUT_SNIPPETS = ("families/rfdetr.md", "families/exported.md", "families/sahi.md")  # need files or other packages
PYTHON = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SELF_CONTAINED = (
    "index.md",
    "measures.md",
    "evaluation.md",
    "extending.md",
    *(f"families/{family.name}.md" for family in FAMILIES),
)


def test_every_method_has_a_page_and_every_page_a_method() -> None:
    assert {page.stem for page in (DOCS / "methods").glob("*.md")} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_is_whole(name: str) -> None:
    """Its picture is there, its class names a source, and its equation can be drawn."""
    page = method_page(name, (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8"))
    assert METHODS[name].passes in page.replace("\\*", "*")
    (reference,) = re.findall(r"^## Reference\n\n(.+)", page, flags=re.MULTILINE)
    assert re.search(r"\d{4}|grad-cam's|Captum's|detxai's own", reference)
    assert "$$" in page


def test_every_link_leads_to_a_file_of_the_repository() -> None:
    """So that the documents can be read without the site: on GitHub, or in a clone."""
    link = re.compile(r"\]\(((?!https?:|mailto:|#)[\w./-]+)(?:#[^)]*)?\)")
    pages = [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]
    assert len(pages) > 40
    lost = [f"{page}: {target}" for page in pages for target in link.findall(page.read_text(encoding="utf-8"))
            if not (page.parent / target).exists()]  # fmt: skip
    assert not lost


def test_a_page_without_a_section_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the sections"):
        method_page("layer_cam", "## What it asks\n\nNothing.\n")


def test_the_table_links_every_method() -> None:
    assert all(f"(methods/{name}.md)" in methods_table() for name in METHODS)


def test_every_family_has_a_page_and_every_page_a_family() -> None:
    assert {page.stem for page in (DOCS / "families").glob("*.md")} == {family.name for family in FAMILIES}
    for family in FAMILIES:
        page = family_page(family.name, (DOCS / "families" / f"{family.name}.md").read_text(encoding="utf-8"))
        assert family.extra is None or f"detxai[{family.extra}]" in page


def test_a_function_has_the_methods_that_need_answers_alone() -> None:
    (function,) = (family for family in FAMILIES if family.name == "function")
    assert methods_of(function) == [name for name, method in METHODS.items() if method.needs == "answers"]


def test_every_measure_and_its_numbers_are_listed() -> None:
    text = measure_tables()
    for name, measure in MEASURES.items():
        assert f"### `{name}`" in text
        for key, quantity in measure.quantities.items():
            assert quantity.better is None or f"| `{key}` |" in text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_the_outputs_of_a_notebook_are_of_its_code(notebook: Path) -> None:
    page = notebook_page(notebook)
    for picture in re.findall(r"\]\((outputs/[^)]+)\)", page):
        assert (notebook.parent / picture).is_file()
    assert not any(cell.get("outputs") for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"])


def test_outputs_of_other_code_are_refused(tmp_path: Path) -> None:
    cells = [{"cell_type": "code", "source": ["1 + 1"]}]
    notebook = tmp_path / "sum.ipynb"
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (tmp_path / "outputs").mkdir()
    kept = {"code": digest_of_code([{"cell_type": "code", "source": ["1 + 2"]}]), "outputs": [[{"text": "3"}]]}
    (tmp_path / "outputs" / "sum.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(ValueError, match="was changed since it was run"):
        notebook_page(notebook)


def test_an_equation_becomes_mathml() -> None:
    html = with_mathml('<p>With <span class="arithmatex">\\(a &lt; b\\)</span>.</p>')
    assert "arithmatex" not in html
    assert "<mi>a</mi><mo>&#x0003C;</mo><mi>b</mi>" in html


@pytest.mark.parametrize("name", SELF_CONTAINED)
def test_the_snippets_of_a_page_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in an empty folder."""
    snippets = PYTHON.findall((DOCS / name).read_text(encoding="utf-8"))
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    assert snippets or name in WITHOUT_SNIPPETS
    monkeypatch.chdir(tmp_path)
    exec("\n".join(snippets), {"__name__": name})
