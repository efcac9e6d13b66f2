"""When a progress bar is shown."""

from __future__ import annotations

import sys


def hides_bar(progress: bool | None) -> bool:
    """Whether to hide a bar: as ``progress`` says; None: where standard error is no terminal."""
    return not sys.stderr.isatty() if progress is None else not progress
