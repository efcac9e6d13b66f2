"""Curves on disk: one CSV row for each thing measured at each epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detxai.runs.files import replacing


class Curves:
    """A CSV file that grows by an epoch at a time, and goes on where an earlier run stopped.

    An epoch that is written again replaces itself and whatever came after it: after a resume, those rows belong to
    a continuation that was given up.

    Args:
        path: the file; made with its first rows.
        columns: names; the first is ``epoch``.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._last: int | None = None

    def add(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows of one epoch; NaN and None become empty cells."""
        if self._last is None or epoch <= self._last:
            self._forget_from(epoch)
        self._last = epoch
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            for row in rows:
                writer.writerow({name: _cell(value) for name, value in {"epoch": epoch, **row}.items()})

    def read(self) -> list[dict[str, str]]:
        """Every row written so far; empty cells are empty strings."""
        return read_curves(self.path)

    def _forget_from(self, epoch: int) -> None:
        kept = [row for row in self.read() if int(row["epoch"]) < epoch] if self.path.exists() else []
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)


def read_curves(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
