"""The folder of a run: which file is what, and how each is written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detxai.coco.schema import EXPLANATION_COLUMNS, FAILURE_COLUMNS, arrow, arrow_schema

Row = Mapping[str, Any]
Columns = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Folder:
    """Where a run keeps its files.

    ``explanations/part-*.parquet`` is the dataset; ``boxes.parquet`` every box with its kind; ``failures.parquet``
    what could not be explained; ``evaluation.json`` AP; ``manifest.json`` what was asked of what; ``report.html``;
    ``predictions.json`` where the run made them; ``overlays/`` on request. ``.parts/`` is what a run needs to go on.
    """

    root: Path

    @property
    def explanations(self) -> Path:
        return self.root / "explanations"

    @property
    def overlays(self) -> Path:
        return self.root / "overlays"

    @property
    def parts(self) -> Path:
        return self.root / ".parts"

    def part(self, number: int) -> Path:
        return self.explanations / f"part-{number:06d}.parquet"

    def failures_of(self, name: str) -> Path:
        return self.parts / f"failures-{name}.parquet"

    def has_part(self, number: int) -> bool:
        return is_whole(self.part(number))

    def write_part(self, number: int, rows: Sequence[Row], failures: Sequence[Row]) -> None:
        """One part of the dataset. Its failures are written first: a part that is there is complete."""
        self.write_failures(f"part-{number:06d}", failures)
        self.write_table(self.part(number), rows, EXPLANATION_COLUMNS)

    def write_failures(self, name: str, failures: Sequence[Row]) -> None:
        path = self.failures_of(name)
        if failures:
            self.write_table(path, failures, FAILURE_COLUMNS)
        else:
            path.unlink(missing_ok=True)

    def failures(self, while_: str = "") -> list[dict[str, Any]]:
        """The failures so far, of every shard: while ``detecting``, in each ``part``, or all."""
        found = []
        for path in sorted(self.parts.glob(f"failures-{while_}*.parquet")):
            found += arrow().parquet.read_table(path).to_pylist()
        return found

    def write_table(self, path: Path, rows: Iterable[Row], columns: Columns) -> None:
        """A Parquet file, whole or not at all."""
        pa = arrow()
        table = pa.Table.from_pylist(list(rows), schema=arrow_schema(columns))
        # dictionaries also hold a map once that several boxes of an image share
        self._write(path, lambda temporary: pa.parquet.write_table(table, temporary))

    def write_json(self, path: Path, content: Any) -> None:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        self._write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def write_text(self, path: Path, text: str) -> None:
        self._write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _write(self, path: Path, write: Any) -> None:
        # half-written files stay out of the dataset's folder: whoever reads it while the run goes on sees whole ones
        self.parts.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.parts / f"partial-{os.getpid()}-{path.name}"
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a Parquet file is there and has its end."""
    if not path.is_file():
        return False
    pa = arrow()
    try:
        pa.parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True
