"""Folders of shards that ran on disks of their own, merged into one run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from detxai.coco.folder import CocoFolder
from detxai.coco.upkeep.status import RunStatus, status
from detxai.runs.files import make_folder, replacing
from detxai.runs.request import differences


def merge(out: Path, folders: Sequence[Path]) -> RunStatus:
    """Bring the finished files of several folders of one run into ``out``.

    Files are copied, so that the folders stay as they are; what ``out`` holds already stays too. Where all parts are
    there then, the same command with ``--out OUT`` writes what concerns the whole: ``failures.parquet``, the report.

    Args:
        out: a new folder, or one of the same run.
        folders: of shards of one run.

    Returns:
        How far the merged run is.

    Raises:
        FileNotFoundError: one of the folders is not of a run.
        ValueError: two of them are of different runs: another request, or other boxes.
        WriteError: a file cannot be written.
    """
    runs = [CocoFolder(folder) for folder in folders]
    first = runs[0]
    for run in [*runs, *([CocoFolder(out)] if CocoFolder(out).request_path.is_file() else [])]:
        status(run.root)  # raises where it is no run
        _expect_same_run(first, run)
    for run in runs:
        for path in _files(run):
            place = out / path.relative_to(run.root)
            if not place.exists():
                make_folder(place.parent)
                make_folder(CocoFolder(out).parts)
                with replacing(place, CocoFolder(out).parts) as temporary:
                    shutil.copyfile(path, temporary)
    return status(out)


def _expect_same_run(first: CocoFolder, run: CocoFolder) -> None:
    one, other = (folder.read_request()["question"] for folder in (first, run))
    different = differences(one, other)
    if different:
        raise ValueError(f"{run.root} holds another run than {first.root} ({different})")
    plans = [folder.plan.read_text(encoding="utf-8") for folder in (first, run) if folder.plan.is_file()]
    if len(set(plans)) > 1:
        raise ValueError(
            f"{run.root} explains other boxes than {first.root}: its predictions or images differ; make the "
            "predictions once, and give them to every shard (--predictions)"
        )


def _files(run: CocoFolder) -> list[Path]:
    """What is copied, in the order in which a run writes it: a part's failures before the part."""
    fixed = [run.request_path, run.config, run.predictions, run.boxes, run.evaluation, run.plan, run.labelled]
    chunks = sorted(run.parts.glob("detected-*.json"))
    failures = sorted(run.parts.glob("failures-*.parquet"))
    parts, overlays = sorted(run.explanations.glob("part-*.parquet")), sorted(run.overlays.glob("[0-9]*.png"))
    return [path for path in [*fixed, *failures, *chunks, *parts, *overlays] if path.is_file()]
