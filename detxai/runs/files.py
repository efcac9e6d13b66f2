"""Files that are whole or not there, even where many processes on many machines write into one folder."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ABANDONED_AFTER = 3600.0  # seconds since anything was written to it: writing takes seconds
_TEMPORARY = re.compile(r"\..*\.[\w-]+-\d+-[0-9a-f]{8}\.partial(\.\w+)?", re.DOTALL)


class WriteError(OSError):
    """A file of a run could not be written: the disk is full, the folder read-only."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        why = str(error) if error.errno is None else os.strerror(error.errno)
        super().__init__(f"{path} cannot be written: {why}")


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` at the end, so that no half-written file is left.

    Args:
        path: the file; an earlier one stays until the new one is whole.
        folder: where the temporary file stands, on the same file system; default: beside ``path``.

    Raises:
        WriteError: it cannot be written.
    """
    with _temporary(path, folder) as temporary:
        yield temporary
        temporary.replace(path)


def write_new(path: Path, text: str, folder: Path | None = None) -> bool:
    """Write a file that is not there yet, whole; False where it is there, or another process was first.

    Raises:
        WriteError: it cannot be written.
    """
    with _temporary(path, folder) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: here the last of two at the same instant wins
            if path.exists():
                return False
            temporary.replace(path)
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; an earlier one is replaced, and the folders above it are made.

    Raises:
        WriteError: it cannot be written.
    """
    make_folder(path.parent)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, folder: Path | None = None) -> None:
    """Write a text file, whole or not at all; an earlier one is replaced.

    Raises:
        WriteError: it cannot be written.
    """
    with replacing(path, folder) as temporary:
        temporary.write_text(text, encoding="utf-8")


def as_json(content: Any) -> str:
    """The text of a JSON file.

    Raises:
        ValueError: there is NaN or infinity in it, which JSON does not have.
    """
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, content: Any, folder: Path | None = None) -> None:
    """Write a JSON file, whole or not at all; an earlier one is replaced.

    Raises:
        WriteError: it cannot be written.
    """
    write_text(path, as_json(content), folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        WriteError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(folder, error) from error


@contextmanager
def _temporary(path: Path, folder: Path | None) -> Iterator[Path]:
    temporary = temporary_path(path, folder)
    try:
        yield temporary
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):  # what went wrong before is what the caller needs to hear
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path, folder: Path | None = None) -> Path:
    """A hidden name for what becomes ``path``, which no other process takes.

    Process numbers alone are not enough: two containers that share a disk count theirs from 1, each for itself.
    """
    host = re.sub(r"[^A-Za-z0-9-]", "_", platform.node())[:24] or "host"
    unique = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
    return (folder or path.parent) / f".{path.stem[:40]}.{unique}.partial{path.suffix}"


def is_temporary(path: Path) -> bool:
    """Whether a file or folder is named as ``temporary_path`` names them."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_abandoned(folder: Path) -> None:
    """Delete the temporary files and folders that a killed process left in ``folder``, but none that is being written.

    Whether a process of another machine or container is alive cannot be found out, so the age of the file decides.
    """
    for path in folder.iterdir():
        if not is_temporary(path):
            continue
        with suppress(OSError):  # another process was faster
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
