"""Paths that a user gave: that they are there, and a file or a folder as expected."""

from __future__ import annotations

from pathlib import Path


def expect_file(path: Path, name: str) -> None:
    """Raise where ``path`` is no file; ``name`` is the argument that gave it.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is a folder, or no path at all.
    """
    _expect_there(path, name, "file")
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {path}")


def expect_folder(path: Path, name: str) -> None:
    """Raise where ``path`` is no folder; see ``expect_file``."""
    _expect_there(path, name, "folder")
    if not path.is_dir():
        raise ValueError(f"{name} must be a folder, got the file {path}")


def _expect_there(path: Path, name: str, what: str) -> None:
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise ValueError(f"{name}: no such {what}: {error}") from error
    if not exists:
        raise FileNotFoundError(f"{name}: no such {what}: {path}")
