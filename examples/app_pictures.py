"""Pictures of every page of ``detxai app``, for its documentation: light and dark, wide and narrow.

    python examples/app_pictures.py OUT [--views=-dark,-narrow]

Needs the extras ``app``, ``tables`` and ``concepts``, Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import PIL.Image
from playwright.sync_api import sync_playwright

from detxai.scenes import export_coco

PORT = 8719
MODEL = "scenes-frcnn"
PAGES = {
    "explain": "Explain", "what_if": "What if", "data_set": "Data set", "concepts": "Data set", "detector": "Detector",
}  # fmt: skip
VIEWS = {"": (1280, "light"), "-dark": (1280, "dark"), "-narrow": (390, "light"), "-narrow-dark": (390, "dark")}
HEIGHT = 900  # pixels of every picture: the page scrolls within itself
PATIENCE = 600_000  # milliseconds
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def make_runs(folder: Path) -> None:
    """Small runs of ``detxai coco`` and ``detxai concepts find`` on scenes."""
    annotations = export_coco(folder / "scenes", n_images=12, seed=5)
    words = ["coco", "--model", MODEL, "--images", str(annotations.parent), "--annotations", str(annotations)]
    words += ["--method", "layer_cam", "--labels", "by-name", "--out", str(folder / "runs" / "scenes")]
    _run([*words, "--no-progress"])
    words = ["concepts", "find", "--model", "scenes-yolo", "--scenes", "spread,local", "--n-scenes", "4"]
    words += ["--layers", "model.4", "--max-concepts", "12", "--fits", "2", "--out", str(folder / "runs" / "concepts")]
    _run([*words, "--no-progress"])


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "detxai", *words], check=False, stdout=subprocess.DEVNULL)


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


def photograph(browser: Any, out: Path, views: list[str]) -> None:
    """One visitor a view: the map is made once, and every page shown."""
    for ending in views:
        width, scheme = VIEWS[ending]
        context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        asked = (
            "box=0&image=scene-context-30&methods=pixel_evidence&methods=layer_cam&set=pixel_evidence.max_passes=160"
        )
        page.goto(f"http://127.0.0.1:{PORT}/?{asked}")
        page.get_by_text("Shown below").wait_for()
        for name, title in PAGES.items():
            page.get_by_role("radio", name=title, exact=True).click()
            prepare(page, name)
            time.sleep(2)
            picture = PIL.Image.open(io.BytesIO(page.screenshot()))
            picture.save(out / f"{name}{ending}.webp", quality=80)
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
    elif name == "concepts":
        page.get_by_role("combobox", name="Run").click()
        page.get_by_role("option", name="concepts", exact=True).click()
        page.get_by_role("button", name="Its map").first.wait_for()
    else:
        page.get_by_text("Methods that apply").wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", default=",".join(VIEWS), help="which, between commas; the first has an empty name")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder))
        process = serve(Path(folder))
        try:
            with sync_playwright() as browsers:
                browser = browsers.chromium.launch(executable_path=found, args=["--no-sandbox"])
                photograph(browser, given.out, given.views.split(","))
                browser.close()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
