"""What is chosen on the page, kept in its address: who opens that sees the same."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st


def restore(key: str, options: Sequence[str], default: str | None) -> None:
    """Before a widget is drawn: its state is what it was, else what the address says, else ``default``.

    What is not among ``options`` is no state.
    """
    if st.session_state.get(key) not in options:
        given = st.query_params.get(key)
        st.session_state[key] = given if given in options else default


def restore_several(key: str, options: Sequence[str], default: Sequence[str]) -> None:
    """The same for a widget with several values."""
    known = st.session_state.get(key)
    given = st.query_params.get_all(key) if known is None else known
    st.session_state[key] = [one for one in given if one in options] or (list(default) if known is None else [])


def restore_number(key: str, low: float, high: float, default: float) -> None:
    """The same for a slider."""
    if key not in st.session_state:
        try:
            given = float(st.query_params.get(key, default))
        except ValueError:
            given = default
        st.session_state[key] = given if low <= given <= high else default


def save(key: str, value: str | Sequence[str] | None, default: object = None) -> None:
    """Write a state into the address; what is the default is left out of it."""
    if value is None or value == default or value == []:
        if key in st.query_params:
            del st.query_params[key]
    elif isinstance(value, str):
        if st.query_params.get_all(key) != [value]:
            st.query_params[key] = value
    elif st.query_params.get_all(key) != list(value):
        st.query_params[key] = list(value)
