"""Many small files of a finished dataset put together into few; at every moment each row is there."""

from __future__ import annotations

import os
from pathlib import Path

from detxai.coco.folder import CocoFolder
from detxai.coco.schema import EXPLANATION_COLUMNS, arrow_schema
from detxai.runs.files import replacing
from detxai.runs.tables import import_pyarrow, is_whole_table

MOST_ROWS = 512  # of a part on average: larger files are not small


def compact(folder: CocoFolder, n_parts: int) -> None:
    """Put the parts of a complete run together, 64 to a file; each stays a row group, so that reading one row is cheap.

    A run of fewer than 65 parts stays as it is. The new file is written whole, brought to the disk and named before the
    old ones are removed; while both are there, readers of ``detxai`` take the new one. Killed in between, the next call
    removes what is left.

    Args:
        folder: of a run whose every part is there, without failures: what failed may be tried again, part by part.
        n_parts: of its plan.

    Raises:
        WriteError: a file cannot be written; the small ones are still there.
    """
    if n_parts <= folder.parts_together:
        return
    for first in range(0, n_parts, folder.parts_together):
        numbers = range(first, min(first + folder.parts_together, n_parts))
        together, parts = folder.together(first), [folder.part(number) for number in numbers]
        if not is_whole_table(together):
            if not all(map(is_whole_table, parts)) or _rows(parts) > MOST_ROWS * len(parts):
                continue
            _write(folder, parts, together)
        for part in parts:
            part.unlink(missing_ok=True)


def _rows(parts: list[Path]) -> int:
    return sum(import_pyarrow().parquet.read_metadata(part).num_rows for part in parts)


def _write(folder: CocoFolder, parts: list[Path], together: Path) -> None:
    parquet = import_pyarrow().parquet
    with replacing(together, folder.parts) as temporary:
        with parquet.ParquetWriter(temporary, arrow_schema(EXPLANATION_COLUMNS)) as writer:
            for part in parts:
                writer.write_table(parquet.read_table(part))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    if os.name == "posix":  # the new name too; Windows opens no folder
        opened = os.open(together.parent, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
