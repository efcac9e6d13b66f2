"""The settings of any method as widgets: from its dataclass, so that a new method needs nothing here."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import streamlit as st

from detxai.app.options import current_options
from detxai.commands.methods.run import describe
from detxai.commands.options import setting
from detxai.explain import make_method
from detxai.methods import METHODS

# what the page decides itself, and what no form can give
NOT_ASKED = ("progress", "keep_partial", "target")


def settings_of(method: str) -> dict[str, Any]:
    """The settings of a method that differ from its own, as the visitor last gave them."""
    given = st.session_state.setdefault("settings", {})
    return dict(given.get(method, {}))


def has_its_file(method: str) -> bool:
    """Whether a method that needs a file of its own has one by the visitor's settings, and it is theirs to use."""
    given = settings_of(method).get(getattr(METHODS[method], "needs_file", ""))
    if not isinstance(given, str) or not given:
        return False
    options = current_options()
    return options.is_local or Path(given).resolve().is_relative_to(options.runs.resolve())


def keep_settings(method: str, settings: dict[str, Any]) -> None:
    """Use these settings of a method from now on."""
    st.session_state.setdefault("settings", {})[method] = settings


def settings_form(method: str) -> None:
    """A form with a widget for each setting."""
    kind, now = METHODS[method], settings_of(method)
    defaults, helps, hints = describe(kind)["settings"], field_help(kind), get_type_hints(kind)
    with st.form(f"settings-{method}", border=False):
        st.caption(describe(kind)["summary"])
        texts: dict[str, Any] = {}
        columns = st.columns(2)
        for place, name in enumerate(one for one in defaults if one not in NOT_ASKED):
            value = now.get(name, defaults[name])
            with columns[place % 2]:
                texts[name] = _widget(method, name, hints.get(name), value, helps.get(name))
        used = st.form_submit_button("Use these settings")
        back = st.form_submit_button("Back to the method's own")
    if back:
        keep_settings(method, {})
        for name in texts:
            st.session_state.pop(_key(method, name), None)
        st.rerun()
    if used:
        _use(method, texts, defaults)


def _use(method: str, texts: dict[str, Any], defaults: dict[str, Any]) -> None:
    try:
        values = {name: _value(name, given) for name, given in texts.items()}
        changed = {name: value for name, value in values.items() if value != defaults[name]}
        make_method(method, **changed)
    except (ValueError, TypeError, ImportError) as error:
        st.error(f"{method}: {error}")
        return
    keep_settings(method, changed)


def _widget(method: str, name: str, hint: Any, value: Any, help_text: str | None) -> Any:
    key = _key(method, name)
    if get_origin(hint) is Literal:
        options = [str(one) for one in get_args(hint)]
        return st.selectbox(name, options, index=options.index(str(value)), key=key, help=help_text)
    if hint is bool:
        return st.checkbox(name, value=bool(value), key=key, help=help_text)
    if hint is int:
        return st.number_input(name, value=int(value), step=1, min_value=0, key=key, help=help_text)
    if hint is float:
        return st.number_input(name, value=float(value), format="%g", key=key, help=help_text)
    shown = value if isinstance(value, str) else json.dumps(value)
    return st.text_input(name, value=shown, key=key, help=help_text)


def _value(name: str, given: Any) -> Any:
    """What a widget holds; texts are read as ``--set`` reads them."""
    return setting(f"{name}={given}")[1] if isinstance(given, str) else given


def _key(method: str, name: str) -> str:
    return f"setting-{method}-{name}"


def field_help(kind: type[Any]) -> dict[str, str]:
    """Setting -> what its method's docstring says of it.

    >>> from detxai.methods import EigenCAM
    >>> sorted(field_help(EigenCAM)) <= sorted(field.name for field in dataclasses.fields(EigenCAM))
    True
    """
    names = [field.name for field in dataclasses.fields(kind)]
    found: dict[str, str] = {}
    for owner_class in reversed(kind.__mro__):  # what a class says comes before what those above it say
        text = inspect.cleandoc(owner_class.__doc__ or "")
        entries = re.findall(r"^    ([a-z_, ]+): (.*(?:\n(?:        .*|))*)", text, flags=re.MULTILINE)
        for owners, explained in entries:
            plain = " ".join(explained.split()).replace("``", "`")
            if plain.startswith("as for") and set(owners.replace(",", " ").split()) & found.keys():
                continue  # what it points to is known already
            found |= {owner.strip(): plain for owner in owners.split(",") if owner.strip() in names}
    return found
