"""Values as they are quoted in error messages."""

from __future__ import annotations

LONGEST = 80  # characters: whatever a user gave may be of any length


def short_repr(value: object) -> str:
    """``repr``, cut off after 80 characters.

    >>> short_repr("x" * 100)[-5:]
    'xx...'
    """
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
