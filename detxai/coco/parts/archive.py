"""Rows that are explained already, taken over where another plan, or another try, asks about the same box."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from detxai.coco.folder import CocoFolder
from detxai.coco.parts.plan import Job, Part
from detxai.data.error_kinds import LabelledBox
from detxai.runs.files import make_folder
from detxai.runs.tables import import_pyarrow, is_whole_table, read_table

Identity = tuple[int, int, tuple[float, ...], float | None]  # image, category, box, score: what a method explains
IDENTITY_COLUMNS = ["image_id", "category_id", "box", "score"]


def archive_parts(folder: CocoFolder, plan: str) -> None:
    """Clear the dataset for a new plan, and keep what the old one has explained for ``ArchivedRows``.

    Args:
        folder: of the run.
        plan: digest of the old plan.
    """
    make_folder(folder.archive)
    for path in folder.explanations.glob("part-*.parquet"):
        with suppress(FileNotFoundError):  # another shard was faster
            path.replace(folder.archive / f"{plan[:12]}-{path.name}")
    for path in folder.parts.glob("failures-part-*.parquet"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder.overlays, ignore_errors=True)  # named by the rows of the old plan


def delete_archive(folder: CocoFolder) -> None:
    """Remove what was archived."""
    shutil.rmtree(folder.archive, ignore_errors=True)


def lost_by(folder: CocoFolder, parts: Iterable[Part]) -> int:
    """How many boxes that are explained in the folder are not in this plan."""
    planned = {_identity(query.box) for part in parts for job in part.jobs for query in job.queries}
    paths = [*folder.explanations.glob("part-*.parquet"), *folder.archive.glob("*.parquet")]
    explained = {
        _identity_of_row(row)
        for path in filter(is_whole_table, paths)
        for row in import_pyarrow().parquet.read_table(path, columns=IDENTITY_COLUMNS).to_pylist()
    }
    return len(explained - planned)


class ArchivedRows:
    """The rows that were archived, and those of parts that are to be made again; one file in memory at a time.

    Args:
        folder: of the run.
        again: parts of the dataset in which something failed.
    """

    def __init__(self, folder: CocoFolder, again: Sequence[Path] = ()) -> None:
        self._files_of: dict[int, list[Path]] = {}
        for path in filter(is_whole_table, [*sorted(folder.archive.glob("*.parquet")), *again]):
            images = import_pyarrow().parquet.read_table(path, columns=["image_id"])["image_id"].to_pylist()
            for image_id in dict.fromkeys(images):
                self._files_of.setdefault(image_id, []).append(path)
        self._open: tuple[Path, list[dict[str, Any]]] | None = None

    def rows(self, job: Job) -> list[dict[str, Any]]:
        """The rows of this job's boxes that are there, in the order of the job.

        What depends on the plan (the row's number, the kind of error, the loss of AP) is that of the new one.
        """
        paths = self._files_of.get(job.file.image_id, ())
        known = {_identity_of_row(row): row for path in paths for row in self._read(path)}
        return [
            known[_identity(query.box)] | {"row": query.row} | query.box.as_row()
            for query in job.queries
            if _identity(query.box) in known
        ]

    def _read(self, path: Path) -> list[dict[str, Any]]:
        if self._open is None or self._open[0] != path:
            try:
                self._open = (path, read_table(path))
            except OSError:  # another shard finished the dataset, and deleted the archive
                return []
        return self._open[1]


def _identity(box: LabelledBox) -> Identity:
    return box.image_id, box.category_id, box.box, box.score


def _identity_of_row(row: Mapping[str, Any]) -> Identity:
    return row["image_id"], row["category_id"], tuple(row["box"]), row["score"]
