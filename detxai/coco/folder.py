"""The files of a run of ``detxai coco``: which is what, and in which order they are written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from detxai.coco.schema import EXPLANATION_COLUMNS, FAILURE_COLUMNS, arrow_schema
from detxai.data.error_kinds import LabelledBox
from detxai.data.image_files import ImageFile
from detxai.runs.failures import reason
from detxai.runs.folder import RunFolder
from detxai.runs.tables import import_pyarrow, is_whole_table, read_table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class CocoFolder(RunFolder):
    """Where a run of ``detxai coco`` keeps its files.

    ``manifest.json`` says what was requested. The stages fill the rest: ``detect`` writes ``predictions.json`` where no
    file of predictions was given; ``label`` writes ``boxes.parquet`` (every box with its kind) and ``evaluation.json``
    (AP); ``explain`` writes the dataset, ``explanations/part-*.parquet``, and ``failures.parquet``; ``report`` writes
    ``report.html`` and, on request, ``overlays/``. ``.parts/`` is what a run needs to go on.
    """

    request_name: ClassVar[str] = "manifest.json"
    parts_name: ClassVar[str] = ".parts"
    what: ClassVar[str] = "run"
    parts_together: ClassVar[int] = 64  # in one file, once small ones are put together

    @property
    def config(self) -> Path:
        """What repeats the run: ``detxai coco --config run.yaml``."""
        return self.root / "run.yaml"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.json"

    @property
    def boxes(self) -> Path:
        return self.root / "boxes.parquet"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def plan(self) -> Path:
        """Digest of the plan: which boxes are explained, and in which part."""
        return self.parts / "plan.sha256"

    @property
    def plan_of_format_3(self) -> Path:
        """The same in folders that earlier versions wrote; their digest is made in another way."""
        return self.parts / "plan.txt"

    @property
    def labelled(self) -> Path:
        """Digest of what ``boxes.parquet`` and ``evaluation.json`` were made from."""
        return self.parts / "labelled.sha256"

    @property
    def explanations(self) -> Path:
        return self.root / "explanations"

    @property
    def overlays(self) -> Path:
        return self.root / "overlays"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def archive(self) -> Path:
        """Parts of an earlier plan, whose rows are taken over."""
        return self.parts / "earlier"

    def part(self, number: int) -> Path:
        return self.explanations / f"part-{number:06d}.parquet"

    def together(self, number: int) -> Path:
        """The file that holds this part and its neighbours once small files were put together."""
        first = number - number % self.parts_together
        return self.explanations / f"part-{first:06d}-{first + self.parts_together - 1:06d}.parquet"

    def file_of(self, number: int) -> Path:
        """The file that a part is in: its own, or, once small ones were put together, that of many."""
        own = self.part(number)
        return own if own.is_file() else self.together(number)

    def part_files(self) -> list[Path]:
        """The files of the dataset, in the order of its rows: each part once, in a file of its own or with others."""
        found = sorted(self.explanations.glob("part-*.parquet"))
        together = {path for path in found if path.stem.count("-") == 2 and is_whole_table(path)}
        alone = (path for path in found if path.stem.count("-") == 1)
        return sorted([*together, *(path for path in alone if self.together(int(path.stem[5:])) not in together)])

    def failures_of(self, name: str) -> Path:
        return self.parts / f"failures-{name}.parquet"

    def has_part(self, number: int) -> bool:
        return is_whole_table(self.part(number)) or is_whole_table(self.together(number))

    def has_failures(self, number: int) -> bool:
        """Whether something failed while this part was made."""
        return self.failures_of(f"part-{number:06d}").is_file()

    def has_rows(self) -> bool:
        """Whether anything is explained."""
        parts = filter(is_whole_table, self.explanations.glob("part-*.parquet"))
        return any(import_pyarrow().parquet.read_metadata(part).num_rows for part in parts)

    def remove_part(self, number: int) -> None:
        self.part(number).unlink(missing_ok=True)
        self.write_failures(f"part-{number:06d}", [])

    def write_part(self, number: int, rows: Sequence[Row], failures: Sequence[Row]) -> None:
        """Write one part of the dataset.

        A new one's failures are written first, as a part that is there is complete; those of one that is made again
        last, as what is still missing from it must not be forgotten. Killed in between, too many are listed.
        """
        again = self.part(number).is_file()
        if not again:
            self.write_failures(f"part-{number:06d}", failures)
        self.write_table(self.part(number), rows, arrow_schema(EXPLANATION_COLUMNS))
        if again:
            self.write_failures(f"part-{number:06d}", failures)

    def write_failures(self, name: str, failures: Sequence[Row]) -> None:
        path = self.failures_of(name)
        if failures:
            self.write_table(path, failures, arrow_schema(FAILURE_COLUMNS))
        else:
            path.unlink(missing_ok=True)

    def failures(self, stage: str = "") -> list[dict[str, Any]]:
        """The failures so far, of every shard: of ``detecting``, of each ``part``, or all."""
        found = []
        for path in sorted(self.parts.glob(f"failures-{stage}*.parquet")):
            try:
                found += read_table(path)
            except FileNotFoundError:  # another shard has just done it again, without a failure
                continue
            except (OSError, import_pyarrow().ArrowException) as error:
                raise ValueError(f"out: {path} is damaged; give a new folder") from error
        return found

    def read_boxes(self) -> list[LabelledBox]:
        """The content of ``boxes.parquet``."""
        return [LabelledBox.from_row(row) for row in read_table(self.boxes)]

    def has_whole_json(self, path: Path) -> bool:
        """Whether a file that ``write_json`` wrote is there and has its end."""
        try:
            with path.open("rb") as file:
                file.seek(-2, os.SEEK_END)
                return file.read() in (b"]\n", b"}\n")
        except OSError:  # not there, or shorter
            return False


class UnreadableImageError(ValueError):
    """An image could not be read; what is wrong with it."""


def failure_row(
    file: ImageFile, step: str, error: BaseException, n_boxes: int, box: LabelledBox | None = None
) -> dict[str, Any]:
    """A row of ``failures.parquet``."""
    unreadable = isinstance(error, UnreadableImageError)
    return {
        "image_id": file.image_id,
        "file_name": file.file_name,
        "step": "reading" if unreadable else step,
        "prediction_id": None if box is None else box.prediction_id,
        "annotation_id": box.annotation_id if box is not None and box.prediction_id is None else None,
        "n_boxes": n_boxes,
        "reason": str(error) if unreadable else reason(error),
    }
