"""Parquet files that are whole or not there. pyarrow is imported when the first is written or read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from detxai.runs.files import replacing


def import_pyarrow() -> ModuleType:
    """The module ``pyarrow``, with ``pyarrow.parquet``.

    Raises:
        ImportError: it is not installed; the message has the pip line.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install "detxai[tables]"') from error
    module: ModuleType = pyarrow
    return module


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: Any, folder: Path | None = None) -> None:
    """Write a Parquet file, whole or not at all.

    Args:
        path: the file; an earlier one is replaced.
        rows: column -> value; a column that a row lacks becomes null.
        schema: a ``pyarrow.Schema``.
        folder: where the temporary file stands; default: beside ``path``.

    Raises:
        WriteError: it cannot be written.
    """
    pa = import_pyarrow()
    table = pa.Table.from_pylist(list(rows), schema=schema)
    # dictionaries also hold a map once that several boxes of an image share
    with replacing(path, folder) as temporary:
        pa.parquet.write_table(table, temporary)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    rows: list[dict[str, Any]] = import_pyarrow().parquet.read_table(path).to_pylist()
    return rows


def is_whole_table(path: Path) -> bool:
    """Whether a Parquet file is there and has its end."""
    if not path.is_file():
        return False
    pa = import_pyarrow()
    try:
        pa.parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True
