"""The rows of ``explanations/``, read a row group at a time, however many files they are in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detxai.coco.folder import CocoFolder
from detxai.coco.schema import EXPLANATION_COLUMNS, arrow_schema
from detxai.runs.tables import import_pyarrow

Row = dict[str, Any]


class StoredRows:
    """The rows of a run, by their place; one row group in memory at a time.

    Args:
        folder: of the run; it may still be running.
    """

    def __init__(self, folder: CocoFolder) -> None:
        self.folder = folder
        self._list()

    def _list(self) -> None:
        """Which rows are in which row group of which file."""
        self.files: list[Path] = self.folder.part_files()
        self._groups: list[tuple[Path, int]] = []
        self._starts = [0]
        for path in self.files:
            metadata = import_pyarrow().parquet.read_metadata(path)
            for group in range(metadata.num_row_groups):
                self._groups.append((path, group))
                self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._open: tuple[int, list[Row]] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, place: int) -> Row:
        """All columns of one row, ``place`` in [0, len)."""
        try:
            return self._row(place)
        except FileNotFoundError:  # another process has just put small files together: the rows are the same
            self._list()
            return self._row(place)

    def _row(self, place: int) -> Row:
        group = bisect_right(self._starts, place) - 1
        if self._open is None or self._open[0] != group:
            path, number = self._groups[group]
            with import_pyarrow().parquet.ParquetFile(path) as file:
                self._open = (group, file.read_row_group(number).to_pylist())
        return self._open[1][place - self._starts[group]]

    def dataset(self) -> Any:
        """A ``pyarrow.dataset.Dataset`` of the files: nothing is read yet."""
        import_pyarrow()
        import pyarrow.dataset

        schema = arrow_schema(EXPLANATION_COLUMNS)
        return pyarrow.dataset.dataset([str(path) for path in self.files], schema=schema, format="parquet")

    def table(self, columns: Sequence[str]) -> Any:
        """A ``pyarrow.Table`` of these columns."""
        if not self.files:
            return arrow_schema(EXPLANATION_COLUMNS).empty_table().select(list(columns))
        return self.dataset().to_table(columns=list(columns))
