"""Rows that are explained already, taken over where an image is asked about the same boxes again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from detxai.coco.folder import CocoFolder
from detxai.coco.plan import Job
from detxai.coco.rows import Row, box_row
from detxai.data.error_kinds import Case
from detxai.runs.files import make_folder
from detxai.runs.tables import import_pyarrow, is_whole_table


def archive_parts(folder: CocoFolder, plan: str) -> None:
    """Clear the dataset for a new plan, and keep what the old one has explained for ``ArchivedRows``.

    Args:
        folder: of the run.
        plan: what tells the old plan from others.
    """
    make_folder(_archive(folder))
    for path in folder.explanations.glob("part-*.parquet"):
        with suppress(FileNotFoundError):  # another shard was faster
            path.replace(_archive(folder) / f"{plan[:12]}-{path.name}")
    for path in folder.parts.glob("failures-part-*.parquet"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder.overlays, ignore_errors=True)  # named by the rows of the old plan


def delete_archive(folder: CocoFolder) -> None:
    """Remove what was archived."""
    shutil.rmtree(_archive(folder), ignore_errors=True)


def _archive(folder: CocoFolder) -> Path:
    return folder.parts / "earlier"


class ArchivedRows:
    """The rows that were archived, and those of parts that are to be made again; one file in memory at a time.

    Args:
        folder: of the run.
        category_names: category id -> name.
        again: parts of the dataset in which something failed.
    """

    def __init__(self, folder: CocoFolder, category_names: Mapping[int, str], again: Sequence[Path] = ()) -> None:
        self.category_names = category_names
        self._file_of: dict[int, Path] = {}
        for path in filter(is_whole_table, [*sorted(_archive(folder).glob("*.parquet")), *again]):
            images = import_pyarrow().parquet.read_table(path, columns=["image_id"])["image_id"].to_pylist()
            self._file_of.update(dict.fromkeys(images, path))
        self._open: tuple[Path, list[Row]] | None = None

    def rows(self, job: Job) -> list[Row] | None:
        """The rows of this job; None where its image was asked about other boxes, or some of them failed.

        What depends on the plan (the row's number, the loss of AP) is that of the new one.
        """
        path = self._file_of.get(job.file.image_id)
        if path is None:
            return None
        if self._open is None or self._open[0] != path:
            try:
                self._open = (path, import_pyarrow().parquet.read_table(path).to_pylist())
            except OSError:  # another shard finished the dataset, and deleted the archive
                return None
        rows = [row for row in self._open[1] if row["image_id"] == job.file.image_id]
        asked = [(one.case.category_id, list(one.case.box), one.case.score) for one in job.asked]
        if [(row["category_id"], row["box"], row["score"]) for row in rows] != asked:
            return None
        return [row | self._of_plan(one.row, one.case) for row, one in zip(rows, job.asked, strict=True)]

    def _of_plan(self, row: int, case: Case) -> dict[str, Any]:
        return {"row": row} | box_row(case, self.category_names)
