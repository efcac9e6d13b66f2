"""Progress bars: how they look, and when they are shown."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm


def hides_bar(progress: bool | None) -> bool:
    """Whether to hide a bar: as ``progress`` says; None: where standard error is no terminal."""
    return not sys.stderr.isatty() if progress is None else not progress


def progress_bar(progress: bool | None, total: int, doing: str, unit: str) -> tqdm:
    """A bar for the steps of one call, gone when it is done: see ``hides_bar`` for ``progress``."""
    return tqdm(total=total, desc=doing, unit=unit, disable=hides_bar(progress), leave=False)
