"""What MkDocs calls while it builds the site: pages that are generated, tables that are filled in, and equations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from family_pages import families_table, family_page
from mathml import with_mathml
from measure_tables import measure_tables
from method_pages import method_page, methods_table
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_pages import notebook_page

ROOT = Path(__file__).parents[2]
BESIDE_DOCS = ("CHANGELOG.md", "BENCHMARKS.md", "CONTRIBUTING.md")
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#]+)(#[^)]*)?\)")
OF_THE_REPOSITORY = re.compile(rf"\]\(((?:\.\./)*tutorials/\w+\.ipynb|(?:\.\./)+(?:{'|'.join(BESIDE_DOCS)}))")
TABLES = {
    "<!-- table of methods -->": methods_table,
    "<!-- table of families -->": families_table,
    "<!-- tables of measures -->": measure_tables,
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A page of docs/ that the navigation of mkdocs.yml does not name stands at the end of its last section."""
    assert config.nav is not None
    named = str(config.nav)
    (last,) = config.nav[-1].values()
    last += [page.name for page in sorted((ROOT / "docs").glob("*.md")) if f"'{page.name}'" not in named]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that have no Markdown file in docs/: the notebooks, and the files of ``BESIDE_DOCS``."""
    for notebook in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        page = f"tutorials/{notebook.stem}.md"
        files.append(File.generated(config, page, content=notebook_page(notebook)))
    for name in BESIDE_DOCS:
        text = LINK.sub(_link_on_the_site, (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, name.lower(), content=text))
    return files


def _link_on_the_site(link: re.Match[str]) -> str:
    """A link of a file beside docs/ as it stands on the site; only its text where the site does not have the file."""
    text, target, anchor = link.groups(default="")
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{anchor})"
    return f"[{text}]({target.lower()}{anchor})" if target in BESIDE_DOCS else text


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Links as the site has them; complete the pages of methods and families; fill in the tables."""
    markdown = OF_THE_REPOSITORY.sub(_page_of_a_file, markdown)
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder == "methods":
        return method_page(name, markdown)
    if folder == "families":
        return family_page(name, markdown)
    for marker, table in TABLES.items():
        if marker in markdown:
            markdown = markdown.replace(marker, table())
    return markdown


def _page_of_a_file(link: re.Match[str]) -> str:
    """The page that the site has of a notebook, or of a file beside docs/."""
    target = link[1]
    if target.endswith(".ipynb"):
        return f"]({target.removesuffix('ipynb')}md"
    above, name = target.rsplit("../", 1)
    return f"]({above}{name.lower()}"


def on_page_content(html: str, **_: Any) -> str:
    """Equations become MathML, which browsers draw by themselves."""
    return with_mathml(html)
