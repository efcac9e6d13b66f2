"""Where an evaluation keeps what is finished, so that the same request goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from detxai.adapters.adapter import Adapter
from detxai.explanation import replacing


@dataclass(frozen=True)
class Folder:
    """The folder of one evaluation: ``request.json``, and ``parts/`` with a file for each image, and for each of its
    methods. A file appears whole, under its final name, or not at all; each holds the key of the request.

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
            ValueError: the folder holds the evaluation of another request.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"out must be a folder, {folder} is a file")
        text = json.dumps(request, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        earlier = _read(folder / "request.json")
        if earlier is not None and earlier.get("key") != key:
            differ = differences(earlier.get("request", {}), json.loads(text))
            raise ValueError(
                f"out: {folder} holds another evaluation ({differ}); "
                "give the same command to go on with it, or another folder"
            )
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        for left in (folder / "parts").glob(".*.partial*"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)
        if earlier is None:
            _write(folder / "request.json", {"key": key, "request": dict(request)}, indent=2)
        return cls(folder, key)

    def read(self, number: int, what: str) -> dict[str, Any] | None:
        """The part called ``what`` of image ``number``; None where there is none of this request."""
        part = _read(self._part(number, what))
        return part if part is not None and part.get("key") == self.key else None

    def write(self, number: int, what: str, part: Mapping[str, Any]) -> None:
        """Keep a part in place of an earlier one."""
        _write(self._part(number, what), {"key": self.key, **part})

    def _part(self, number: int, what: str) -> Path:
        return self.path / "parts" / f"{number:06d}.{what}.json"


def network_of(detector: Adapter) -> nn.Module | None:
    """The network inside a detector; None for a plain function, which has none to look into."""
    try:
        return detector.model
    except TypeError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words.

    >>> differences({"seed": 0, "steps": 9}, {"seed": 1, "steps": 9})
    'seed: 0, not 1'
    """
    names = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    return "; ".join(f"{name}: {_short(earlier.get(name))}, not {_short(now.get(name))}" for name in names)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
