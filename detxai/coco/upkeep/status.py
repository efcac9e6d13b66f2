"""How far a run is, read from its folder alone: it may be running, on this machine or others, or be stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detxai.coco.folder import CocoFolder
from detxai.coco.parts.plan import Part, plan
from detxai.coco.selection import Selection, select
from detxai.data.image_files import ImageFile
from detxai.runs.shards import Shard
from detxai.runs.tables import is_whole_table

RECENT = 20  # parts from whose times the rate is read


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        stage: the one that it is in, or stopped in: ``detecting``, ``explaining``, ``report``, ``finished``.
        n_detected: images whose predictions are made so far; None where a file of predictions was given.
        n_boxes: to explain; None before they are labelled.
        n_explained: of these, in parts that are there; failed ones among them.
        n_parts: of the dataset; None before they are planned.
        n_parts_done: that are there.
        n_failures: images and boxes that failed.
        boxes_per_second: over the last parts; None where fewer than two are there.
        seconds_left: at that rate; None where it is not known.
        idle_seconds: since anything was finished: long, where the run is not running.
        shards: for each of so many shards, parts that are there and parts it has.
    """

    stage: str
    n_detected: int | None
    n_boxes: int | None
    n_explained: int
    n_parts: int | None
    n_parts_done: int
    n_failures: int
    boxes_per_second: float | None
    seconds_left: float | None
    idle_seconds: float
    shards: Sequence[tuple[int, int]] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def status(folder: Path, n_shards: int = 0) -> RunStatus:
    """How far the run in ``folder`` is.

    Args:
        folder: of the run.
        n_shards: how many shards the run was started as, to count for each; 0: do not.

    Raises:
        FileNotFoundError: ``folder`` is not of a run.
        ValueError: a file of it is damaged.
    """
    run = CocoFolder(folder)
    question = _question(run)
    made = len(list(run.parts.glob("detected-*.json")))
    n_detected = None if question.get("predictions_sha256") else made * 16
    parts = planned(run, question) if is_whole_table(run.boxes) else None
    done = [part for part in parts or () if run.has_part(part.number)]
    n_boxes = None if parts is None else sum(part.n_boxes for part in parts)
    n_explained = sum(part.n_boxes for part in done)
    rate = _rate(run, done)
    shards = [
        (sum(run.has_part(part.number) for part in mine), len(mine))
        for mine in (Shard(index, n_shards).mine(parts or []) for index in range(n_shards))
    ]
    return RunStatus(
        _stage(run, parts, len(done)),
        n_detected,
        n_boxes,
        n_explained,
        None if parts is None else len(parts),
        len(done),
        len(run.failures()),
        rate,
        None if not rate or n_boxes is None else (n_boxes - n_explained) / rate,
        _idle_seconds(run),
        shards,
    )


def planned(run: CocoFolder, question: dict[str, Any]) -> list[Part]:
    """The parts of the dataset, from the boxes that are labelled and the selection that was requested."""
    entries = {name: value for name, value in question["selection"].items() if value is not None}
    known = set(question["label_to_category"].values())
    boxes = [box for box in select(run.read_boxes(), Selection(**entries)) if box.category_id in known]
    failed = {row["image_id"] for row in run.failures("detecting")}
    names = {box.image_id: box.file_name for box in boxes if box.image_id not in failed}
    files = [ImageFile(number, name, name) for number, name in names.items()]
    return plan(boxes, files, question["rows_per_part"])


def _question(run: CocoFolder) -> dict[str, Any]:
    if not run.request_path.is_file():
        raise FileNotFoundError(f"OUT must be a folder that detxai coco wrote; there is no {run.request_path}")
    question = run.read_request().get("question")
    if not isinstance(question, dict):
        raise ValueError(f"OUT: {run.request_path} is damaged")
    return question


def _stage(run: CocoFolder, parts: Sequence[Part] | None, n_done: int) -> str:
    if parts is None:
        return "detecting"
    if n_done < len(parts):
        return "explaining"
    return "finished" if run.report.is_file() or not parts else "report"


def _rate(run: CocoFolder, done: Sequence[Part]) -> float | None:
    """Boxes a second between the first and the last of the parts that were written last."""
    written = sorted((run.file_of(part.number).stat().st_mtime, part.n_boxes) for part in done)[-RECENT:]
    seconds = written[-1][0] - written[0][0] if written else 0.0
    return sum(n for _, n in written[1:]) / seconds if seconds > 0 else None


def _idle_seconds(run: CocoFolder) -> float:
    finished = [*run.parts.iterdir(), *run.explanations.glob("part-*"), run.request_path]
    return max(0.0, time.time() - max(path.stat().st_mtime for path in finished))
