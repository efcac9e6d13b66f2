"""``detxai demo``: the bundled detectors explain scenes whose evidence is known. Offline, on a CPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from detxai.adapters.detector import Detector
from detxai.adapters.loading import load_detector
from detxai.demo.scene_pictures import scene_panels
from detxai.demo.stories import DemoRow, main_object, tell_story
from detxai.demo.texts import HEADLINES, LESSONS, METHOD_NOTES
from detxai.pages.demo_page import DemoPage, Section, Story, Total, demo_page
from detxai.progress import hides_bar
from detxai.runs.files import make_folder, replacing
from detxai.scenes.scene import Scene, generate
from detxai.scenes.world import KIND_DESCRIPTIONS, Kind

log = logging.getLogger("detxai")

SCENES: Final[tuple[tuple[Kind, int], ...]] = (
    ("local", 11),
    ("spread", 20),
    ("context", 30),
    ("redundant", 42),
    ("joint", 50),
    ("shortcut", 60),
)
"""Kind and seed of each scene shown; no detector was trained on these seeds.

Chosen by size alone, before any map was made: from 10, 20, ... the first seed whose object is 44 pixels high and wide.
"""

SHOWN: Final[dict[str, dict[str, Any]]] = {
    "pixel_evidence": {"max_passes": 160},
    "d_rise": {"n_masks": 128, "variance_reduction": "regression"},
    "layer_cam": {},
    "ablation_cam": {},
    "eigen_cam": {},
}
"""The methods shown. Fewer views than an analysis would take, for a page that is soon ready."""

OPTIONAL: Final = ("scenes-yolo", "scenes-rtdetr")
"""Detectors that need a library that detxai does without."""

LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {
    "scenes-frcnn": ("d_rise",),
    "scenes-rtdetr": ("d_rise", "ablation_cam"),
}
"""Methods that a detector is not shown with beside others, for the sake of time: the page says so."""

KINDS_SHOWN: Final[dict[str, tuple[Kind, ...]]] = {"scenes-rtdetr": ("local", "context", "shortcut")}
"""The scenes that a detector is shown with, where not with all, likewise."""


@dataclass(frozen=True)
class Demo:
    """What a demo made: the page, a row for each explanation, and why a detector is missing, if one is."""

    path: Path
    rows: tuple[DemoRow, ...]
    missing: tuple[str, ...] = ()

    def table(self) -> str:
        """The rows as aligned text for a terminal; heat and chance are shares of the map and of the picture."""
        head = ("kind", "detector", "object", "score", "erased", "method", "peak on it", "heat on it", "chance", "s")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join(line.rstrip() for line in text)


def demo(out: str | Path, *, progress: bool | None = None) -> Path:
    """The page of ``make_demo``: its path."""
    return make_demo(out, progress=progress).path


def make_demo(out: str | Path, *, progress: bool | None = None) -> Demo:
    """Write ``index.html``, complete in one file, into the folder ``out``.

    Args:
        out: the folder; it is made if need be.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        FileExistsError: ``out`` is a file.
        FileNotFoundError: the package lacks the weights of its Faster R-CNN.
        WriteError: ``out`` cannot be written to.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out must be a folder, {folder} is a file")
    make_folder(folder)
    start = time.perf_counter()
    detectors, missing = _detectors()
    rows: list[DemoRow] = []
    sections = []
    alone = len(detectors) == 1
    n_stories = sum(is_shown(name, kind) for name in detectors for kind, _ in SCENES)
    with tqdm(total=n_stories, desc="explaining", unit="scene", disable=hides_bar(progress)) as bar:
        for kind, seed in SCENES:
            scene = generate(seed, kind)
            stories = []
            for name, detector in detectors.items():
                if not is_shown(name, kind):
                    continue
                story, measured = tell_story(scene, name, detector, methods_of(name, alone=alone))
                stories.append(story)
                rows.extend(measured)
                bar.update()
            sections.append(_section(scene, stories))
    methods = list(dict.fromkeys([*SHOWN, *(row.method for row in rows)]))
    page = DemoPage(
        sections,
        {method: METHOD_NOTES.get(method, "") for method in methods},
        _totals(rows),
        missing,
        [] if alone else [reason for name in detectors if (reason := _left_out(name))],
        time.perf_counter() - start,
    )
    path = folder / "index.html"
    with replacing(path) as temporary:
        temporary.write_text(demo_page(page), encoding="utf-8")
    return Demo(path, tuple(rows), tuple(missing))


def methods_of(detector: str, *, alone: bool = False) -> dict[str, dict[str, Any]]:
    """The methods that a detector is shown with, and their settings: all of them where it stands alone."""
    left_out = () if alone else LEFT_OUT.get(detector, ())
    return {method: settings for method, settings in SHOWN.items() if method not in left_out}


def is_shown(detector: str, kind: Kind) -> bool:
    """Whether a detector is shown with scenes of this kind."""
    return kind in KINDS_SHOWN.get(detector, (kind,))


def _left_out(detector: str) -> str:
    """What a detector is not shown with, in words; empty where there is nothing."""
    parts = []
    if detector in LEFT_OUT:
        parts.append(f"without {' and '.join(LEFT_OUT[detector])}")
    if detector in KINDS_SHOWN:
        parts.append(f"with {len(KINDS_SHOWN[detector])} of the {len(SCENES)} scenes")
    return f"{detector} {', '.join(parts)}" if parts else ""


def _detectors() -> tuple[dict[str, Detector], list[str]]:
    """Every bundled detector; those of other libraries only where these and the weights are."""
    found = {"scenes-frcnn": load_detector("scenes-frcnn")}
    missing = []
    for name in OPTIONAL:
        try:
            found[name] = load_detector(name)
        except (ImportError, FileNotFoundError) as error:
            log.info("the demo goes without %s: %s", name, error)
            missing.append(f"{name}: {error}")
    return found, missing


def _section(scene: Scene, stories: Sequence[Story]) -> Section:
    panels = scene_panels(scene, main_object(scene))
    return Section(HEADLINES[scene.kind], KIND_DESCRIPTIONS[scene.kind], LESSONS[scene.kind], panels, stories)


def _totals(rows: Sequence[DemoRow]) -> list[Total]:
    """For each method and detector, how its maps did over all scenes."""
    totals = []
    for method, detector in dict.fromkeys((row.method, row.detector) for row in rows):
        mine = [row for row in rows if (row.method, row.detector) == (method, detector)]
        hits = sum(row.peak_on_evidence for row in mine)
        heat, chance = (float(np.mean([getattr(row, name) for row in mine])) for name in ("heat_on_evidence", "area"))
        totals.append(Total(method, detector, len(mine), hits, heat, chance))
    return sorted(totals, key=lambda total: total.method)


def _cells(row: DemoRow) -> tuple[str, ...]:
    peak = "yes" if row.peak_on_evidence else "no"
    shares = (f"{row.heat_on_evidence:.2f}", f"{row.area:.2f}", f"{row.seconds:.1f}")
    scores = (f"{row.score:.2f}", f"{row.score_erased:.2f}")
    return (row.kind, row.detector, row.detection, *scores, row.method, peak, *shares)
