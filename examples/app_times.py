"""How long ``detxai app`` takes: from the command to boxes that can be clicked, and from a click to the first map.

    python examples/app_times.py [--model MODEL] [--images DIR] [--clicks 3]

Needs the extra ``app``, Playwright and a Chromium. Beside wall time it tells the processor time of the server: on a
busy machine only the latter can be compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 600_000  # milliseconds
QUIET = 5  # seconds before the first click, and after a stop: what goes on in the background has ended


def serve(words: list[str], folder: str) -> tuple[subprocess.Popen[bytes], str]:
    """The page, once it answers, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "detxai", "app", "--port", str(port), "--runs", folder, *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
            continue
        return process, f"http://127.0.0.1:{port}/"
    raise SystemExit("the page did not start")


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a process so far; NaN where there is no /proc."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(page: Any, process: subprocess.Popen[bytes], n_clicks: int) -> None:
    """Click the first boxes, one after the other, and stop each once its first map is there."""
    boxes = page.locator(".boxes button")
    for place in range(min(n_clicks, boxes.count())):
        number, _, name = str(boxes.nth(place).get_attribute("aria-label")).partition(": ")
        began, worked = time.perf_counter(), processor_seconds(process)
        boxes.nth(place).dispatch_event("click")
        page.locator(f'img[alt^="evidence for {name}"]').first.wait_for()
        page.wait_for_function(f"new URL(location).searchParams.get('box') == '{number}'")
        seconds, worked = time.perf_counter() - began, processor_seconds(process) - worked
        print(f"click {place + 1} to first map: {seconds:.2f} s ({worked:.2f} s of processor)", flush=True)
        stop = page.get_by_role("button", name="Stop, and keep what there is")
        if stop.count():
            stop.click()
        time.sleep(QUIET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="as detxai app takes it; default: the first bundled one")
    parser.add_argument("--images", help="a folder of pictures; default: bundled scenes")
    parser.add_argument("--clicks", type=int, default=3)
    given = parser.parse_args()
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    words = [word for name in ("model", "images") if (value := getattr(given, name)) for word in (f"--{name}", value)]
    with sync_playwright() as browsers, tempfile.TemporaryDirectory() as folder:
        browser = browsers.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        began = time.perf_counter()
        process, address = serve(words, folder)
        try:
            page.goto(address)
            page.locator(".boxes button").first.wait_for()
            seconds = time.perf_counter() - began
            print(f"command to boxes: {seconds:.1f} s ({processor_seconds(process):.1f} s of processor)", flush=True)
            time.sleep(QUIET)
            measure(page, process, given.clicks)
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    main()
