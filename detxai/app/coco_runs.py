"""Run folders of ``detxai coco``: found, followed while they go on, and started."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detxai.app.options import ModelChoice
from detxai.app.recipes import model_words
from detxai.coco import Selection
from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.folder import CocoFolder
from detxai.coco.selection import select
from detxai.engine.concepts.concept_file import FILE
from detxai.runs.background import STATE, BackgroundRun
from detxai.runs.names import safe_name

MOST_LISTED = 200
COLUMNS = (
    "row", "kind", "category", "score", "area", "energy_box", "energy_box_chance", "file_name", "method", "stage",
)  # fmt: skip


def run_folders(below: Path) -> dict[str, Path]:
    """The run folders directly below a folder, by name, the newest first."""
    if not below.is_dir():
        return {}
    found = [path for path in below.iterdir() if is_run(path)]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.name: path for path in found[:MOST_LISTED]}


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of ``detxai coco``, or one that begins."""
    return folder.is_dir() and any((folder / name).is_file() for name in (CocoFolder.request_name, STATE))


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds a finished ``detxai evaluate``."""
    return folder.is_dir() and (folder / "summary.json").is_file() and not is_concept_search(folder)


def is_concept_search(folder: Path) -> bool:
    """Whether a folder holds a finished ``detxai concepts find``."""
    return folder.is_dir() and all((folder / name).is_file() for name in ("summary.json", FILE))


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes:
        stage: in words.
        n_explained, n_selected: boxes; ``n_selected`` is None before the detector has found them.
        background: its process, if the page started it.
        is_going_on: whether that lives.
    """

    stage: str
    n_explained: int
    n_selected: int | None
    background: BackgroundRun | None
    is_going_on: bool


def progress_of(folder: Path) -> RunProgress:
    """How far the run in a folder is, by its files alone."""
    files, background = CocoFolder(folder), BackgroundRun.read(folder)
    alive = background is not None and background.is_alive
    if not files.request_path.is_file():
        return RunProgress("starting" if alive else "ended before it began", 0, None, background, alive)
    n_explained = len(ExplainedBoxes(folder))
    if not files.boxes.is_file() or not files.evaluation.is_file():
        return RunProgress("detecting" if alive else "stopped while detecting", 0, None, background, alive)
    n_selected = len(select(files.read_boxes(), selection_of(folder)))
    done = files.report.is_file() or n_explained >= n_selected
    stage = "explaining" if alive else "finished" if done else "stopped; the same command goes on"
    return RunProgress(stage, n_explained, n_selected, background, alive)


def selection_of(folder: Path) -> Selection:
    """Which boxes a run explains, as its manifest says."""
    record: dict[str, Any] = json.loads((folder / CocoFolder.request_name).read_text(encoding="utf-8"))
    given = record["question"]["selection"]
    return Selection(**{name: value for name, value in given.items() if value is not None})


def start_run(
    runs: Path, name: str, choice: ModelChoice, images: Path, annotations: Path, method: str, max_images: int | None
) -> Path:
    """Start ``detxai coco`` in the background, in a folder of that name below ``runs``; the folder.

    Raises:
        ValueError: the folder is there already, the detector was uploaded, or a path is wrong.
        FileNotFoundError: there are no such images or annotations.
    """
    if choice.is_trusted or choice.label:
        raise ValueError("An uploaded detector is gone when the page is: give its path for a run")
    if not images.is_dir():
        raise FileNotFoundError(f"There is no folder {images}")
    if not annotations.is_file():
        raise FileNotFoundError(f"There is no file {annotations}")
    folder = runs / safe_name(name, 60)
    if folder.exists():
        raise ValueError(f"{folder} is there already: give another name")
    words = [
        "coco",
        *model_words(choice),
        "--images",
        str(images.resolve()),
        "--annotations",
        str(annotations.resolve()),
    ]
    words += ["--method", method, "--out", str(folder.resolve()), "--no-progress"]
    words += [] if max_images is None else ["--max-images", str(max_images)]
    BackgroundRun.start(folder, words)
    return folder


def table_of(boxes: ExplainedBoxes) -> Any:
    """What the page shows of each explanation, as a pandas ``DataFrame``: see ``detxai.coco.schema``."""
    table = boxes.table(COLUMNS).to_pandas()
    table.insert(6, "outside_box", 1 - table.pop("energy_box"))
    return table


def model_of(folder: Path) -> str | None:
    """The name of the detector that a run was made with, as its command says; None where it does not."""
    try:
        record = json.loads((folder / CocoFolder.request_name).read_text(encoding="utf-8"))
        words = shlex.split(str(record.get("command", "")))
    except (OSError, ValueError):
        return None
    return words[words.index("--model") + 1] if "--model" in words[:-1] else None
