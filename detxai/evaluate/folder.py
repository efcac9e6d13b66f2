"""The folder of an evaluation: what was requested, and a part for each image and for each of its methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from detxai.runs.files import replacing
from detxai.runs.folder import RunFolder
from detxai.runs.names import distinct_name


@dataclass(frozen=True)
class EvaluationFolder(RunFolder):
    """The folder of one evaluation: ``request.json``, and ``parts/`` with a file for each image and method.

    Each part holds the key of the request, and the fingerprint of the image and its annotations.

    Attributes:
        key: of the request.
    """

    key: str = ""
    what: ClassVar[str] = "evaluation"

    @classmethod
    def for_request(cls, path: str | PathLike[str], request: Mapping[str, Any]) -> EvaluationFolder:
        """The folder for a request: new, or as an earlier run of the same request left it.

        Args:
            path: the folder; it is made if need be.
            request: everything that the figures depend on, as JSON can hold it.

        Raises:
            FileExistsError: ``path`` is a file.
            ValueError: the folder holds the evaluation of another request, or something else.
            WriteError: nothing can be written there.
        """
        folder = cls(Path(path))
        if folder.root.exists() and not folder.root.is_dir():
            raise FileExistsError(f"out must be a folder, {folder.root} is a file")
        text = json.dumps(request, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        saved = folder.open({"key": key, "request": dict(request)})
        if "key" not in saved or not isinstance(saved.get("request"), dict):
            raise ValueError(f"out: {folder.request_path} is damaged; give a new folder")
        folder.expect_same(saved["request"], json.loads(text))
        return replace(folder, key=str(saved["key"]))

    def read_part(self, number: int, name: str, content: str) -> dict[str, Any] | None:
        """A part of image ``number``; None where there is none of this request and content.

        Args:
            number: of the image.
            name: the part's.
            content: fingerprint of the image and of what is annotated in it.
        """
        try:
            part = json.loads(self._part(number, name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged: it is made again
            return None
        is_ours = isinstance(part, dict) and (part.get("key"), part.get("content")) == (self.key, content)
        return part if is_ours else None

    def write_part(self, number: int, name: str, content: str, part: Mapping[str, Any]) -> None:
        """Keep a part in place of an earlier one.

        Raises:
            WriteError: it cannot be written.
        """
        text = json.dumps({**part, "key": self.key, "content": content}, allow_nan=False)
        with replacing(self._part(number, name)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def _part(self, number: int, name: str) -> Path:
        return self.parts / f"{number:06d}.{distinct_name(name)}.json"
