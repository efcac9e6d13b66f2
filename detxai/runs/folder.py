"""The folder of a run: what was requested, and every file of it whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from detxai.runs.background import LOG, STATE
from detxai.runs.files import as_json, is_temporary, make_folder, remove_abandoned, replacing, write_new
from detxai.runs.request import differences, read_request
from detxai.runs.tables import write_table


@dataclass(frozen=True)
class RunFolder:
    """Where a command keeps what is requested and what is finished.

    A subclass names its files. A run then goes so::

        saved = folder.open({"request": request})      # written now, or by the process that began this run
        folder.expect_same(saved["request"], request)  # another request is refused
        for item in items:
            if not folder.path_of(item).is_file():     # a file that is there is finished
                folder.write_json(folder.path_of(item), compute(item))

    Temporary files stand in ``parts``, on the same file system, so that nobody who reads the other folders while the
    run goes on meets half of a file.

    Attributes:
        root: the folder; made with the first file.
    """

    root: Path
    request_name: ClassVar[str] = "request.json"
    parts_name: ClassVar[str] = "parts"
    what: ClassVar[str] = "run"  # in messages: "holds files, but no run"

    @property
    def request_path(self) -> Path:
        """The file that says what was requested."""
        return self.root / self.request_name

    @property
    def parts(self) -> Path:
        """The folder of what a run needs to go on."""
        return self.root / self.parts_name

    def open(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a run, or go on with the one that is there.

        Args:
            content: what the request file of a new run holds, as JSON can.

        Returns:
            What the request file holds: ``content``, or what the run was begun with. Of several processes that begin
            at the same instant one writes the file, and all read it.

        Raises:
            ValueError: the folder holds something else, or the request file is damaged.
            WriteError: nothing can be written there.
        """
        if not self.request_path.is_file():
            self._expect_no_other_files()
            make_folder(self.parts)
            write_new(self.request_path, as_json(content), self.parts)
        if self.parts.is_dir():
            remove_abandoned(self.parts)
        return self.read_request()

    def read_request(self) -> dict[str, Any]:
        """What the request file holds.

        Raises:
            ValueError: it is damaged.
        """
        return read_request(self.request_path)

    def expect_same(self, saved: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
        """Raise ``ValueError``, saying what differs, where a run was begun with another request."""
        different = differences(saved, requested)
        if different:
            raise ValueError(
                f"out: {self.root} holds another {self.what} that was started with different settings ({different}); "
                "repeat its command to go on with it, or give a new folder"
            )

    def write_json(self, path: Path, content: Any) -> None:
        """A JSON file, whole or not at all."""
        self.write_text(path, as_json(content))

    def write_text(self, path: Path, text: str) -> None:
        """A text file, whole or not at all; folders on its way are made."""
        self._make_folders(path)
        with replacing(path, self.parts) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_table(self, path: Path, rows: Iterable[Mapping[str, Any]], schema: Any) -> None:
        """A Parquet file, whole or not at all; ``schema`` is pyarrow's."""
        self._make_folders(path)
        write_table(path, rows, schema, self.parts)

    def _make_folders(self, path: Path) -> None:
        make_folder(self.parts)
        make_folder(path.parent)

    def _expect_no_other_files(self) -> None:
        """Raise where a folder without a request holds more than a run killed at its very start may have left."""
        if not self.root.is_dir():
            return
        expected = {self.parts, self.root / STATE, self.root / LOG}
        others = [path for path in self.root.iterdir() if not is_temporary(path) and path not in expected]
        if self.parts.is_dir():
            others += [path for path in self.parts.iterdir() if not is_temporary(path)]
        if others and not self.request_path.is_file():  # now it may be there: of a process begun at the same instant
            raise ValueError(f"out: {self.root} holds files, but no {self.what}; give a new or an empty folder")
