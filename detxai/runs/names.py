"""Names that every file system takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any


def safe_name(text: str, longest: int = 40) -> str:
    """Text as part of a file name: letters, digits, ``-``, ``_`` and inner dots; never empty.

    Args:
        text: any text, such as a class name or the stem of a file.
        longest: the most characters that the name has.

    >>> safe_name("../x"), safe_name("traffic light"), safe_name("..")
    ('x', 'traffic_light', 'unnamed')
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("._- ")[:longest].rstrip("._-") or "unnamed"


def distinct_name(text: str) -> str:
    """A short name that differs from that of every other text, also where a file system takes ``a`` and ``A`` for one.

    Args:
        text: a name whose characters a file name may hold, such as that of a method.

    >>> distinct_name("d_rise"), distinct_name("D_RISE")
    ('d_rise', 'D_RISE-3c6d7a6d')
    """
    if text == text.casefold() and len(text) <= 80:
        return text
    return f"{text[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def record_of_names(names: Sequence[str]) -> dict[str, Any]:
    """What a request keeps of the images it is about: how many (``n``), and 16 hexadecimal digits for their names."""
    return {"n": len(names), "names": hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]}
