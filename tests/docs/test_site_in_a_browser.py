"""The built site in a browser: no page scrolls sideways, nothing is fetched from elsewhere, search finds a method."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_page_scrolls_sideways_or_fetches_anything(
    site: Path, address: str, chromium: Any, width: int, scheme: str
) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    elsewhere: set[str] = set()
    page.on("request", lambda request: elsewhere.add(request.url) if request.url.startswith("http") else None)
    wide = {}
    for file in sorted(site.rglob("index.html")):
        page.goto(address + file.parent.relative_to(site).as_posix() + "/")
        needed = page.evaluate("document.documentElement.scrollWidth")
        if needed > width:
            wide[file.parent.name] = needed
    page.close()
    assert not wide
    assert not {url for url in elsewhere if not url.startswith(address)}


def test_search_finds_a_method(address: str, chromium: Any) -> None:
    page = chromium.new_page()
    page.goto(address)
    page.locator(".md-search__input").fill("region_shapley")
    page.locator(".md-search-result__link").first.wait_for()
    found = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    assert any("methods/region_shapley/" in link for link in found)
    page.close()
