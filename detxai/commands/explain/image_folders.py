"""A folder for each image: what it is called, and how its files come into it all or none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detxai.runs.files import WriteError, make_folder, remove_abandoned, temporary_path, write_json
from detxai.runs.names import safe_name


def folder_names(paths: Sequence[Path]) -> list[str]:
    """A folder name for each image, safe and all different, also where case does not count.

    >>> folder_names([Path("a/bus.jpg"), Path("b/Bus.png"), Path("a b.jpg")])
    ['bus', 'Bus-2', 'a_b']
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem, n = safe_name(path.stem), 1
        name = stem
        while name.casefold() in taken:
            n += 1
            name = f"{stem}-{n}"
        taken.add(name.casefold())
        names.append(name)
    return names


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder whose files move into ``folder`` at the end; what an earlier run left there is deleted.

    Killed while they move, ``detections.json`` says ``"complete": false`` and lists the files of both runs, so that the
    next run knows them.

    Raises:
        WriteError: a file cannot be written.
    """
    make_folder(folder.parent)
    remove_abandoned(folder.parent)
    partial = temporary_path(folder)
    make_folder(partial)
    try:
        yield partial
        old = set(_files_of_earlier_run(folder))
        new = sorted((file.name for file in partial.iterdir()), key=lambda name: (name == "detections.json", name))
        make_folder(folder)
        if old:
            write_json(folder / "detections.json", {"complete": False, "files": sorted(old.union(new[:-1]))})
        for name in new:
            (partial / name).replace(folder / name)
        for stale in old.difference(new):
            (folder / stale).unlink(missing_ok=True)
    except OSError as error:
        raise error if isinstance(error, WriteError) else WriteError(folder, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files_of_earlier_run(folder: Path) -> list[str]:
    try:
        files = json.loads((folder / "detections.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [file for file in files if isinstance(file, str) and re.fullmatch(r"\d+_[\w.-]+", file)]


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove ``folder``, and folders above it, where they are new and still empty at the end."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        for place in new:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
