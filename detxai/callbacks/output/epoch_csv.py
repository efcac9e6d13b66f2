"""Curves of a training on disk: one CSV row for each thing measured at each epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detxai.runs.files import replacing


class EpochCsv:
    """A CSV file that grows by an epoch at a time.

    Args:
        path: the file; made with its first rows.
        columns: names; the first is ``epoch``.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._last: int | None = None

    def add(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows of one epoch, in place of those just added of it; NaN and None become empty cells."""
        if not self.path.exists():
            self._rewrite([])
        elif epoch == self._last:
            self._rewrite([row for row in self.read() if row["epoch"] != str(epoch)])
        self._last = epoch
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            for row in rows:
                writer.writerow({name: _cell(value) for name, value in {"epoch": epoch, **row}.items()})

    def read(self) -> list[dict[str, str]]:
        """Every row written so far; empty cells are empty strings."""
        return read_csv(self.path)

    def keep_until(self, epoch: int, aside: Path) -> None:
        """Leave out the rows of this epoch and later ones, and what a crash cut off; ``aside`` gets a copy."""
        self._last = None
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        rows = self.read()
        whole = rows if content.endswith(b"\n") else rows[:-1]
        kept = [row for row in whole if _epoch_of(row) < epoch]
        if len(kept) < len(rows):
            aside.mkdir(parents=True, exist_ok=True)
            (aside / self.path.name).write_bytes(content)
        self._rewrite(kept)  # also where the columns have changed since

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return list(csv.DictReader(file))


def _epoch_of(row: Mapping[str, str]) -> float:
    """Its epoch; infinite where it has no whole one, or lacks cells."""
    epoch = row.get("epoch") or ""
    return int(epoch) if epoch.isdecimal() and None not in row.values() else math.inf


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
