"""What error messages quote and suggest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 80  # characters: whatever a user gave may be of any length


def short_repr(value: object) -> str:
    """``repr``, cut off after 80 characters.

    >>> short_repr("x" * 100)[-5:]
    'xx...'
    """
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: the known word that is nearest, or begins so; nothing where none is near.

    >>> did_you_mean("--metod", ["--method", "--model"])
    "; did you mean '--method'?"
    >>> did_you_mean("LayerCAM", ["layer_cam", "score_cam"])
    "; did you mean 'layer_cam'?"
    >>> did_you_mean("fcos", ["fcos_resnet50_fpn"])
    "; did you mean 'fcos_resnet50_fpn'?"
    >>> did_you_mean("--elephant", ["--help", "--model"])
    ''
    """
    words = {_comparable(name): name for name in known}
    typed = _comparable(word)
    near = difflib.get_close_matches(typed, words, n=1) or [one for one in words if typed and one.startswith(typed)]
    return f"; did you mean {words[near[0]]!r}?" if near else ""


def _comparable(word: str) -> str:
    """Without what says nothing about how near a word is: its case, and the dashes that every option begins with."""
    return word.lstrip("-").replace("-", "_").lower()
