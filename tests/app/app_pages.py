"""The page without a browser, on a small seeded detector, for the tests of this folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

import detxai
import detxai.app.main
from detxai.adapters.detector import Detector
from detxai.app.options import AppOptions, ModelChoice, set_options
from detxai.app.session import Session

SMALL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"
NAMES = ["background", "cat", "dog", "owl", "fox"]
FEW = "pixel_evidence.max_passes=150"  # in the address: some draws, and soft masks


def write_photo(path: Path, seed: int = 0, size: tuple[int, int] = (60, 80)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def small_detector() -> Detector:
    """The detector of these pages."""
    return detxai.wrap(SMALL, class_names=NAMES)


def write_names(folder: Path) -> Path:
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return folder / "names.txt"


class Page:
    """One visitor's page.

    Args:
        folder: gets two pictures and the runs.
        address: what its address holds.
        options: further ones of the app.
    """

    def __init__(self, folder: Path, address: dict[str, Any] | None = None, **options: Any) -> None:
        import streamlit as st
        from streamlit.testing.v1 import AppTest

        st.cache_resource.clear()  # to AppTest all visitors are one
        images = folder / "images"
        images.mkdir(exist_ok=True)
        for seed in (0, 1):
            write_photo(images / f"photo-{seed}.png", seed)
        set_options(
            AppOptions(
                **{
                    "model": ModelChoice(SMALL, class_names=write_names(folder)),
                    "images": images,
                    "runs": folder / "runs",
                    **options,
                }
            )
        )
        self.images = images
        self.at = AppTest.from_file(detxai.app.main.__file__, default_timeout=60)
        for name, value in (address or {}).items():
            self.at.query_params[name] = value
        self.sessions: list[Session] = []
        opened = Session.open

        def open_and_tell() -> Session:
            self.sessions.append(opened())
            return self.sessions[-1]

        Session.open = open_and_tell  # type: ignore[method-assign]
        try:
            self.run()
        finally:
            Session.open = opened  # type: ignore[method-assign]

    @property
    def session(self) -> Session:
        return self.sessions[0]

    def run(self) -> None:
        self.at.run()
        assert not self.at.exception, self.at.exception[0].message

    def finish(self) -> None:
        """Until the work has ended, and the page shows it."""
        deadline = time.monotonic() + 60
        while self.session.is_working:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.run()

    def text(self) -> str:
        kinds = ("markdown", "caption", "error", "warning", "info", "code")
        return "\n".join(one.value for kind in kinds for one in getattr(self.at, kind))

    def explanation(self, method: str) -> Any:
        """The map that the page shows of the chosen box."""
        found = [one for one in self.session.results.values() if one.method.name == method]
        return found[-1].explanation
