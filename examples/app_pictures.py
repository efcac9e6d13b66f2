"""Pictures of every page of ``detxai app``, for its documentation: light and dark, wide and narrow.

    python examples/app_pictures.py OUT [--all]

Needs the extras ``app`` and ``tables``, Playwright and a Chromium. Without ``--all`` only those that docs/app.md shows.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from detxai.scenes import export_coco

PORT = 8719
MODEL = "scenes-frcnn"
PAGES = {"explain": "Explain", "what_if": "What if", "data_set": "Data set", "detector": "Detector"}
VIEWS = {"": (1280, "light"), "-dark": (1280, "dark"), "-narrow": (390, "light"), "-narrow-dark": (390, "dark")}
HEIGHT = 900  # pixels of every picture: the page scrolls within itself
PATIENCE = 600_000  # milliseconds
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def make_run(folder: Path) -> None:
    """A small run of ``detxai coco`` on scenes."""
    annotations = export_coco(folder / "scenes", n_images=12, seed=5)
    words = ["coco", "--model", MODEL, "--images", str(annotations.parent), "--annotations", str(annotations)]
    words += ["--method", "layer_cam", "--labels", "by-name", "--out", str(folder / "runs" / "scenes")]
    subprocess.run([sys.executable, "-m", "detxai", *words, "--no-progress"], check=False, stdout=subprocess.DEVNULL)


def serve(folder: Path) -> subprocess.Popen[bytes]:
    """The page, once it answers."""
    words = ["app", "--port", str(PORT), "--runs", str(folder / "runs")]
    process = subprocess.Popen([sys.executable, "-m", "detxai", *words], stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=5).read()
            return process
        except OSError:
            time.sleep(0.5)
    process.kill()
    raise SystemExit("the page does not answer")


def photograph(browser: Any, out: Path, everything: bool) -> None:
    """One visitor a view: the map is made once, and every page shown."""
    for ending, (width, scheme) in VIEWS.items() if everything else [("", VIEWS[""])]:
        context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        asked = (
            "box=0&image=scene-context-30&methods=pixel_evidence&methods=layer_cam&set=pixel_evidence.max_passes=160"
        )
        page.goto(f"http://127.0.0.1:{PORT}/?{asked}")
        page.get_by_text("Shown below").wait_for()
        for name, title in PAGES.items():
            page.get_by_role("radio", name=title).click()
            prepare(page, name)
            time.sleep(2)
            page.screenshot(path=out / f"{name}{ending}.png")
        context.close()


def prepare(page: Any, name: str) -> None:
    """Waits for what a page is to show; on *What if* it paints a line."""
    if name == "explain":
        page.get_by_alt_text("overlay of").first.wait_for()
    elif name == "what_if":
        canvas = page.locator(".paint canvas")
        canvas.wait_for()
        canvas.scroll_into_view_if_needed()
        frame = canvas.bounding_box()
        page.mouse.move(frame["x"] + frame["width"] * 0.3, frame["y"] + frame["height"] * 0.3)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] * 0.7, frame["y"] + frame["height"] * 0.35, steps=8)
        page.mouse.up()
        page.get_by_text("You covered").wait_for()
    elif name == "data_set":
        page.get_by_role("button", name="Explain this case").wait_for()
    else:
        page.get_by_text("Methods that apply").wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--all", action="store_true", help="dark and narrow too")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder))
        process = serve(Path(folder))
        try:
            with sync_playwright() as browsers:
                browser = browsers.chromium.launch(executable_path=found, args=["--no-sandbox"])
                photograph(browser, given.out, given.all)
                browser.close()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
