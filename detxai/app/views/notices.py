"""What the page says of a try that failed, until the next try of the same kind.

What one run of the script alone says can be gone before it is read: Streamlit runs the script again whenever a part of
the page reports something.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from detxai.app.sentences import escaped


def keep(place: str, sentences: Sequence[str]) -> None:
    """From the next ``show`` on, ``place`` says these sentences; none: it says nothing."""
    _kept()[place] = list(sentences)


def show(place: str) -> None:
    """Draw what was kept for ``place``, as errors."""
    for one in _kept().get(place, []):
        st.error(escaped(one))


def _kept() -> dict[str, list[str]]:
    kept: dict[str, list[str]] = st.session_state.setdefault("notices", {})
    return kept
