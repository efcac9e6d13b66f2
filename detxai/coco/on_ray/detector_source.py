"""What a worker makes its detector from: the files it was loaded from, or the detector itself, pickled."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from detxai.adapters.detector import Detector
from detxai.adapters.loading import load_detector
from detxai.runs.files import make_folder, write_bytes


class DetectorSource(Protocol):
    """Makes the detector of a run again, in another process."""

    def build(self) -> Detector: ...

    def moved_paths(self) -> Mapping[str, str]:
        """Path of a file on this machine -> the path that it was loaded from where the run was started."""
        ...


@dataclass(frozen=True)
class PickledDetector:
    """The detector itself. Made of Python and torch it can be pickled; what an exported file runs in cannot."""

    detector: Detector

    def build(self) -> Detector:
        return self.detector

    def moved_paths(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True)
class DetectorFiles:
    """What ``load_detector`` takes, and the files that it reads: they travel with the run, so no shared disk is needed.

    Attributes:
        model: a name, or the path of a file or folder.
        weights: a file, or None.
        options: further arguments.
        files: what ``model`` and ``weights`` name -> path, from the folder it stands in -> content. A factory's own
            file (``file.py:function``) is not sent, as it may import what stands beside it: it must be found under the
            same path on every node.
    """

    model: str
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)

    @classmethod
    def read(cls, model: str, weights: str | None, options: Mapping[str, Any]) -> DetectorFiles:
        """Read the files that a detector is loaded from."""
        contents = {
            name: {path.relative_to(Path(name).parent).as_posix(): path.read_bytes() for path in _files_at(Path(name))}
            for name in (model, weights)
            if name is not None
        }
        return cls(model, weights, dict(options), {name: files for name, files in contents.items() if files})

    def build(self) -> Detector:
        """The detector; where it is built first on a machine, its files are written to the temporary folder there."""
        weights = None if self.weights is None else self._local(self.weights)
        return load_detector(self._local(self.model), weights=weights, **self.options)

    def moved_paths(self) -> Mapping[str, str]:
        return {self._local(name): name for name in self.files}

    def _local(self, name: str) -> str:
        """The path of a file or folder on this machine; of what is none, its name as it is."""
        if name not in self.files:
            return name
        user = os.getuid() if hasattr(os, "getuid") else "user"
        folder = Path(tempfile.gettempdir()) / f"detxai-{user}" / self._digest(name)
        make_folder(folder)
        folder.parent.chmod(0o700)
        for path, content in self.files[name].items():
            place = folder / path
            if not (place.is_file() and place.stat().st_size == len(content)):
                write_bytes(place, content)
        return str(folder / Path(name).name)

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        for path, content in sorted(self.files[name].items()):
            digest.update(f"{path} {len(content)} ".encode() + content)
        return digest.hexdigest()[:24]


def _files_at(path: Path) -> list[Path]:
    """A file and the weights beside it, or every file in a folder; none where ``path`` is neither."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        return []
    beside = [path.with_suffix(".bin"), path.with_name(path.name + ".data")]
    return [path, *(file for file in beside if file != path and file.is_file())]
