"""The folder of a run: which file is what, and how each is written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detxai.coco.schema import EXPLANATION_COLUMNS, FAILURE_COLUMNS, arrow, arrow_schema
from detxai.runs.files import is_temporary, make_folder, remove_abandoned, replacing, write_new

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

    def has_rows(self) -> bool:
        """Whether anything is explained."""
        parts = filter(is_whole, self.explanations.glob("part-*.parquet"))
        return any(arrow().parquet.read_metadata(part).num_rows for part in parts)

    def remove_part(self, number: int) -> None:
        self.part(number).unlink(missing_ok=True)
        self.write_failures(f"part-{number:06d}", [])

    def write_part(self, number: int, rows: Sequence[Row], failures: Sequence[Row]) -> None:
        """One part of the dataset.

        A new one's failures are written first, as a part that is there is complete; those of one that is made again
        last, as what is still missing from it must not be forgotten. Killed in between, too many are listed.
        """
        again = self.part(number).is_file()
        if not again:
            self.write_failures(f"part-{number:06d}", failures)
        self.write_table(self.part(number), rows, EXPLANATION_COLUMNS)
        if again:
            self.write_failures(f"part-{number:06d}", failures)

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
            try:
                found += arrow().parquet.read_table(path).to_pylist()
            except FileNotFoundError:  # another shard has just done it again, without a failure
                continue
            except (OSError, arrow().ArrowException) as error:
                raise ValueError(f"out: {path} is damaged; give a new folder") from error
        return found

    def write_table(self, path: Path, rows: Iterable[Row], columns: Columns) -> None:
        """A Parquet file, whole or not at all."""
        pa = arrow()
        table = pa.Table.from_pylist(list(rows), schema=arrow_schema(columns))
        # dictionaries also hold a map once that several boxes of an image share
        self._write(path, lambda temporary: pa.parquet.write_table(table, temporary))

    def write_json(self, path: Path, content: Any) -> None:
        self.write_text(path, _json(content))

    def has_whole_json(self, path: Path) -> bool:
        """Whether a file that ``write_json`` wrote is there and has its end."""
        try:
            with path.open("rb") as file:
                file.seek(-2, os.SEEK_END)
                return file.read() in (b"]\n", b"}\n")
        except OSError:  # not there, or shorter
            return False

    def write_new_json(self, path: Path, content: Any) -> bool:
        """A file that is not there yet, whole; False where another process was first."""
        make_folder(self.parts)
        return write_new(path, _json(content), self.parts)

    def write_text(self, path: Path, text: str) -> None:
        self._write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _write(self, path: Path, write: Any) -> None:
        # half-written files stay out of the dataset's folder: whoever reads it while the run goes on sees whole ones
        make_folder(self.parts)
        make_folder(path.parent)
        with replacing(path, self.parts) as temporary:
            write(temporary)

    def expect_no_other_files(self) -> None:
        """Raise where a folder without a manifest holds more than a run killed at its very start may have left."""
        if not self.root.is_dir():
            return
        ours = [self.parts] if self.parts.is_dir() and all(map(is_temporary, self.parts.iterdir())) else []
        others = [path for path in self.root.iterdir() if path not in ours]
        if others and not (self.root / "manifest.json").is_file():  # now it may: of a shard begun at the same instant
            raise ValueError(f"out: {self.root} holds files, but no run of detxai coco; give a new folder")

    def remove_abandoned(self) -> None:
        """Delete temporary files that nobody has written to for long."""
        remove_abandoned(self.parts)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


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
