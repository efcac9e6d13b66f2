"""Where an evaluation keeps what is finished, so that the same request goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from detxai.runs.files import is_temporary, make_folder, remove_abandoned, replacing, write_new
from detxai.runs.names import distinct_name
from detxai.runs.request import differences


@dataclass(frozen=True)
class Folder:
    """The folder of one evaluation: ``request.json``, and ``parts/`` with a file for each image, and for each of its
    methods. A file appears whole, under its final name, or not at all; each holds the key of the request, and the
    fingerprint of the image and its annotations.

    Attributes:
        path: the folder.
        key: of the request.
    """

    path: Path
    key: str

    @classmethod
    def of(cls, path: str | PathLike[str], request: Mapping[str, Any]) -> Folder:
        """The folder for a request: new, or as an earlier run of the same request left it.

        Args:
            path: the folder; it is made if need be.
            request: everything that the figures depend on, as JSON can hold it.

        Raises:
            FileExistsError: ``path`` is a file.
            ValueError: the folder holds the evaluation of another request, or something else.
            WriteError: nothing can be written there.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"out must be a folder, {folder} is a file")
        text = json.dumps(request, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        file = folder / "request.json"
        if not file.exists():
            _expect_no_other_files(folder)
        make_folder(folder / "parts")
        write_new(file, json.dumps({"key": key, "request": dict(request)}, indent=2, allow_nan=False) + "\n")
        saved = _read(file)
        if saved is None or "key" not in saved or not isinstance(saved.get("request"), dict):
            raise ValueError(f"out: {file} is damaged; give another folder")
        if saved["key"] != key:
            raise ValueError(
                f"out: {folder} holds another evaluation ({differences(saved['request'], json.loads(text))}); "
                "give the same command to go on with it, or another folder"
            )
        remove_abandoned(folder / "parts")
        return cls(folder, key)

    def read(self, number: int, what: str, content: str) -> dict[str, Any] | None:
        """The part called ``what`` of image ``number``; None where there is none of this request and content.

        Args:
            number: of the image.
            what: the part's name.
            content: fingerprint of the image and of what is annotated in it.
        """
        part = _read(self._part(number, what))
        return part if part is not None and (part.get("key"), part.get("content")) == (self.key, content) else None

    def write(self, number: int, what: str, content: str, part: Mapping[str, Any]) -> None:
        """Keep a part in place of an earlier one.

        Raises:
            WriteError: it cannot be written.
        """
        with replacing(self._part(number, what)) as temporary:
            text = json.dumps({**part, "key": self.key, "content": content}, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    def _part(self, number: int, what: str) -> Path:
        return self.path / "parts" / f"{number:06d}.{distinct_name(what)}.json"


def _expect_no_other_files(folder: Path) -> None:
    """A folder without a request is empty, or holds no more than what a run killed at its very start left."""
    others = [path for path in folder.iterdir() if not is_temporary(path)] if folder.is_dir() else []
    empty = all(path.name == "parts" and path.is_dir() and not any(path.iterdir()) for path in others)
    if not empty and not (folder / "request.json").exists():  # now it may: of a run begun at the same instant
        raise ValueError(f"out: {folder} holds files, but no evaluation; give an empty or a new folder")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
