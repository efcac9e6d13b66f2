"""The page in a real Chromium that cannot reach any other host: one server for the whole file."""

from __future__ import annotations

import itertools
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")

from app_pages import SMALL, small_detector, write_names, write_photo
from test_uploads import Runs, photo_bytes, png

import detxai
import detxai.coco

LONG = {"methods": "pixel_evidence", "set": "pixel_evidence.max_passes=20000"}
PATIENCE = 240_000  # milliseconds: the server still imports PyTorch when it answers, and others may take the processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, and a place for runs."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "images").mkdir()
    for seed in (0, 1):
        write_photo(folder / "images" / f"photo-{seed}.png", seed)
    return folder


@dataclass(frozen=True)
class Served:
    """``detxai app``: its address, and its process."""

    address: str
    process: subprocess.Popen[bytes]

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


@pytest.fixture(scope="module")
def served(folder: Path, chromium: Any) -> Iterator[Served]:
    """One server for the whole file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        "app",
        "--model",
        SMALL,
        "--class-names",
        str(write_names(folder)),
        "--images",
        str(folder / "images"),
        "--runs",
        str(folder / "runs"),
    ]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "detxai", *words, "--port", str(port)], stdout=log, stderr=log, cwd=folder
        )
        address = f"http://127.0.0.1:{port}/"
        try:
            _wait_for(address, process, folder / "log.txt")
            yield Served(address, process)
            assert process.poll() is None, "the server is still up after everything"
        finally:
            process.terminate()
            process.wait(20)
    assert "Traceback" not in (folder / "log.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(served: Served) -> str:
    """Its address."""
    return served.address


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            urllib.request.urlopen(f"{address}_stcore/health", timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the server does not answer")


@pytest.fixture
def visit(chromium: Any, server: str) -> Iterator[Any]:
    """Opens the page with parameters; at the end, nothing else must have been asked for, and no script have failed."""
    contexts, problems = [], []

    def look(route: Any) -> None:
        if route.request.url.startswith((server, "data:", "blob:")):
            route.continue_()
        else:
            problems.append(route.request.url)
            route.abort()

    def open_page(width: int = 1280, scheme: str = "light", **query: str) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.route("**/*", look)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else ""))
        (page.get_by_role("radio", name="Explain") if "page" in query else boxes(page).first).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def boxes(page: Any) -> Any:
    return page.locator(".boxes button")


def shown_text(page: Any, pattern: str) -> Any:
    return page.get_by_text(re.compile(pattern)).first


def test_a_photo_is_uploaded_a_box_clicked_and_its_numbers_are_the_librarys(visit: Any, tmp_path: Path) -> None:
    path = tmp_path / "my photo.png"
    path.write_bytes(photo_bytes(5))
    page = visit(methods="layer_cam")
    page.get_by_test_id("stFileUploaderDropzoneInput").last.set_input_files(path)
    page.wait_for_url(re.compile("image=my_photo.png"))
    detector = small_detector()
    found = detector.detect(path, 0.25)
    page.wait_for_function(f"document.querySelectorAll('*').length && [...document.querySelectorAll('*')].some(e => "
                           f"e.shadowRoot?.querySelectorAll('.boxes button').length == {len(found)})")  # fmt: skip
    label = f"1: {found.name(1)} {float(found.scores[1]):.2f}"
    page.get_by_role("button", name=label, exact=True).dispatch_event("click")
    page.get_by_alt_text(re.compile("evidence for .* by layer_cam")).first.wait_for()
    shown_text(page, r"insertion \d").wait_for()
    (explanation,) = detxai.explain(detector, path, "layer_cam", found[1])
    assert shown_text(page, r"\d pass").inner_text().startswith(f"{explanation.cost.forward_passes} pass")
    assert "box=1" in page.url


@pytest.mark.slow
def test_keys_go_through_boxes_pictures_and_methods(visit: Any) -> None:
    page = visit(methods="layer_cam&methods=eigen_cam", box="0")
    shown_text(page, "Shown below").wait_for()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("box=1"))
    shown_text(page, "Shown below").wait_for()
    page.keyboard.press("2")
    page.get_by_alt_text("overlay of eigen_cam").wait_for()
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_url(re.compile("image=photo-1.png"))


def test_a_run_is_stopped_and_its_map_kept_and_then_painted_over(visit: Any) -> None:
    page = visit(box="0", **LONG)
    page.get_by_alt_text(re.compile("evidence for")).first.wait_for()
    shown_text(page, r"soft masks \d").wait_for()
    page.get_by_role("button", name="Stop, and keep what there is").click()
    shown_text(page, "stopped: the map so far").wait_for()
    page.get_by_role("radio", name="What if").click()
    canvas = page.locator(".paint canvas")
    canvas.wait_for()
    frame = canvas.bounding_box()
    page.mouse.move(frame["x"] + frame["width"] * 0.2, frame["y"] + frame["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.8, frame["y"] + frame["height"] * 0.5, steps=5)
    page.mouse.up()
    shown_text(page, "You covered").wait_for()
    covered = int(re.findall(r"You covered (\d+)%", shown_text(page, "You covered").inner_text())[0])
    assert 2 <= covered <= 12, "a line of three fifths of the width, and six per cent of it wide, with round ends"
    from detxai.targets import ClassScoreTarget, target

    metrics = page.locator("[data-testid=stMetricValue]")
    metrics.nth(2).wait_for()
    values = [float(one.inner_text()) for one in metrics.all()]
    detector = small_detector()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    found = detector.detect(pixels, 0.25)[0]
    before = float(target.score_targets(ClassScoreTarget.of(found), detector.candidates(pixels))[0, 0])
    assert values[0] == pytest.approx(before, abs=6e-4)
    assert len(values) == 3
    page.locator(".tools .clear").click()
    shown_text(page, "Paint over the picture").wait_for()


def test_hostile_uploads_end_in_a_sentence(visit: Any, tmp_path: Path) -> None:
    page = visit()
    (tmp_path / "huge.png").write_bytes(png(30_000, 30_000, b"\0" * 9000))
    (tmp_path / "text.png").write_text("I am text")
    pictures = page.get_by_test_id("stFileUploaderDropzoneInput").last
    pictures.set_input_files([tmp_path / "huge.png", tmp_path / "text.png"])
    shown_text(page, "limit of").wait_for()
    shown_text(page, "text.png is not an image").wait_for()
    page.get_by_text("Another detector").click()
    torch.save({"model": Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(tmp_path / "evil.pt")
    page.get_by_role("button", name="Use the upload").click()
    shown_text(page, "can run any program on this machine").wait_for()
    assert page.get_by_role("button", name="Open it").is_disabled()
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_bounded_under_two_hundred_uploads(
    visit: Any, served: Served, tmp_path: Path, record_property: Any
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)
    page = visit(methods="layer_cam")
    resident: list[int] = []
    for batch in range(5):
        paths = []
        for number in range(40):
            pixels[0, 0] = batch, number, 0  # another file each time
            paths.append(tmp_path / f"upload-{batch}-{number}.png")
            PIL.Image.fromarray(pixels).save(paths[-1], compress_level=0)
        sent = sum(path.stat().st_size for path in paths)
        page.get_by_test_id("stFileUploaderDropzoneInput").last.set_input_files(paths)
        page.wait_for_url(re.compile(f"image=upload-{batch}-39.png"))
        boxes(page).first.wait_for()
        resident.append(served.resident_bytes)
    record_property("megabytes after each 40 uploads", [round(size / 2**20) for size in resident])
    assert sent > 54 * 2**20
    # a leak grows with every batch, what is needed once (buffers of the network, decoders, the server's own) does not
    grown = statistics.median(after - before for before, after in itertools.pairwise(resident))
    assert grown < sent / 4, [f"{size / 2**20:.0f} MB" for size in resident]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light"), (390, "dark")])
def test_nothing_lies_beyond_the_edge(visit: Any, width: int, scheme: str) -> None:
    page = visit(width, scheme, box="0", methods="layer_cam")
    page.get_by_alt_text(re.compile("evidence for")).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.alt)")  # in one step: the page changes meanwhile


@pytest.mark.slow
def test_a_run_of_a_data_set_is_started_found_after_a_reload_and_opened(visit: Any, folder: Path) -> None:
    from test_page import write_annotations

    annotations = write_annotations(folder)
    page = visit(page="Data%20set")
    page.get_by_label("COCO annotations (.json)").fill(str(annotations))
    page.get_by_label("Name of the run").fill("from-the-page")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile("run=from-the-page"))
    page.reload()
    shown_text(page, r"\d+ of \d+ boxes explained").wait_for()
    deadline = time.monotonic() + 60
    while not (folder / "runs/from-the-page/report.html").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    boxes_of_run = detxai.coco.load(folder / "runs/from-the-page")
    shown_text(page, f"finished: {len(boxes_of_run)} of {len(boxes_of_run)} boxes explained").wait_for()
    page.get_by_role("button", name="Explain this case").wait_for()
