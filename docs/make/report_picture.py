"""The picture of a report: ``detxai coco`` on drawn scenes, its page opened in a Chromium.

python docs/make/report_picture.py
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import PIL.Image
from playwright.sync_api import sync_playwright

from detxai.cli import main
from detxai.scenes import export_coco

OUT = Path(__file__).parents[1] / "pictures" / "report.webp"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1280, 1100)  # pixels


def make_report(folder: Path) -> Path:
    """The page about mistakes and misses from a score of 0.1 on: this detector is good at drawn scenes."""
    annotations = export_coco(folder / "val", 40, seed=7000)
    data = ["--images", str(annotations.parent), "--annotations", str(annotations)]
    asked = ["--method", "layer_cam", "--operating-score", "0.1", "--no-progress"]
    if main(["coco", "--model", "scenes-frcnn", *data, *asked, "--out", str(folder / "why")]):
        raise SystemExit("detxai coco failed")
    return folder / "why" / "report.html"


def photograph(page: Path, out: Path) -> None:
    """The first screen of ``page``."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=found, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        opened.goto(page.as_uri())
        picture = PIL.Image.open(io.BytesIO(opened.screenshot()))
        picture.convert("RGB").save(out, quality=80)
        browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        photograph(make_report(Path(made)), OUT)
