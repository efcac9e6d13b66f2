"""Where everything lies that visitors upload."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Root:
    folder: Path | None = None


@contextmanager
def temporary_root() -> Iterator[Path]:
    """A folder for everything that visitors upload, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="detxai-app-", ignore_cleanup_errors=True) as folder:
        _Root.folder = Path(folder)
        try:
            yield _Root.folder
        finally:
            _Root.folder = None


def visitor_folder() -> Path:
    """A new folder for one visitor, in the temporary root where there is one."""
    root = _Root.folder
    return Path(tempfile.mkdtemp(prefix="session-" if root else "detxai-app-", dir=root))
