"""What went wrong, as a sentence for the page."""

from __future__ import annotations

import re
from pathlib import Path

from detxai.commands.options import one_line
from detxai.runs.failures import reason

LONGEST = 600  # characters


def sentence(error: BaseException, folder: Path | None = None) -> str:
    """An error in one line, without the folder that uploads lie in.

    >>> sentence(ValueError("max_passes must be at least 64, got 3"))
    'max_passes must be at least 64, got 3'
    """
    if isinstance(error, MemoryError):
        return "There is not enough memory for this."
    named = isinstance(error, (ValueError, TypeError, LookupError, ImportError, OSError)) and str(error)
    text = one_line(error) if named else reason(error)
    if folder is not None:
        text = text.replace(f"{folder}/", "").replace(str(folder), "")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: a class or a file may be called ``**x**`` or ``:red[x]``.

    >>> escaped("a_b [x](y)")
    'a\\\\_b \\\\[x\\\\](y)'
    """
    return re.sub(r"([\\`*_{}\[\]<>#+!|~$:])", r"\\\1", text)
