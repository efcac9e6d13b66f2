"""Click a box, see why: the picture with its boxes, the methods, and their maps as they come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from detxai.app.jobs import Job, MethodResult
from detxai.app.sentences import escaped
from detxai.app.session import Session
from detxai.app.views import address, cases
from detxai.app.views.components import box_label, clickable_boxes
from detxai.app.views.results import details, summaries
from detxai.app.views.settings_form import has_its_file, settings_form, settings_of
from detxai.app.views.sidebar import Chosen
from detxai.explain import DEFAULT_METHOD, make_method, setting_names
from detxai.methods import METHODS, methods_without_file
from detxai.pages.pictures import data_uri, heat_picture

MOST_METHODS = 4
EVERY = 0.4  # seconds between two looks at the work
FIRST_LOOK = 1.5  # seconds that the page waits for the first map at most, so that it is there when it is drawn
Key = tuple[Any, ...]


def show(session: Session, chosen: Chosen | None) -> None:
    """The page."""
    if chosen is None:
        st.info("Choose a detector and a picture at the left.")
        return
    left, right = st.columns([5, 4], gap="large")
    with left:
        box = choose_box(chosen)
    with right:
        methods = _methods(chosen)
        _scale_of_colours()
        if box is None and chosen.places:
            _strongest_box_button(chosen)
    if box is None:
        session.stop()
        return
    if not methods:
        st.info("Choose a method.")
        return
    results = _wanted(session, chosen, box, methods)
    _maps(session, chosen, box, results)


def _scale_of_colours() -> None:
    """What the colours of a map mean. With it the browser has already loaded what the first map needs."""
    scale = data_uri(heat_picture(np.tile(np.linspace(0, 1, 256), (10, 1))), "PNG")
    st.image(scale, caption="a map's colours: from no evidence to the strongest", width="stretch", alt="a colour scale")


def _strongest_box_button(chosen: Chosen) -> None:
    strongest = max(chosen.places, key=lambda place: float(chosen.detections.scores[place]))
    st.button("Explain the strongest box", on_click=_act, args=("box", strongest))


def choose_box(chosen: Chosen) -> int | None:
    """The picture with its boxes; the place of the one that is chosen."""
    cases.take(chosen)
    _restore_box(chosen.places)
    clickable_boxes(chosen.image, chosen.detections, chosen.places, st.session_state["box"], _act)
    box: int | None = st.selectbox(
        "Box", chosen.places, key="box", format_func=lambda i: box_label(chosen.detections, i),
        placeholder="click one in the picture" if chosen.places else "nothing scores so high", index=None,
        help="In the picture: click a box. Keys: ← and → go through the boxes, Shift with ← or → through the pictures, "
        "1 to 4 through the methods.",
    )  # fmt: skip
    address.save("box", None if box is None else str(box))
    return box


def _restore_box(places: Sequence[int]) -> None:
    if "box" not in st.session_state:
        given = st.query_params.get("box", "")
        st.session_state["box"] = int(given) if given.isdecimal() and len(given) < 6 else None
    if st.session_state["box"] not in places:
        st.session_state["box"] = None
    st.session_state["places"] = list(places)


def _act(kind: str, value: int) -> None:
    """What a click or a key in the picture asks for."""
    if kind == "box" and value in st.session_state.get("places", []):
        st.session_state["box"] = value
    elif kind == "image":
        names = st.session_state.get("image_names", [])
        if names:
            now = names.index(st.session_state["image"]) if st.session_state.get("image") in names else 0
            st.session_state["image"], st.session_state["box"] = names[(now + value) % len(names)], None
    elif kind == "method":
        methods = st.session_state.get("methods", [])
        if 0 <= value < len(methods):
            st.session_state["shown"] = methods[value]


def applicable(chosen: Chosen) -> list[str]:
    """The methods that this detector can answer, the default first; none that needs a file of its own."""
    return _answered(chosen, methods_without_file())


def _answered(chosen: Chosen, names: Sequence[str]) -> list[str]:
    from detxai.adapters.attention import has_attention

    detector = chosen.detector
    network = detector.network is not None
    can = {"answers": True, "network": network, "gradients": network, "attention": has_attention(type(detector))}
    return [name for name in names if can.get(METHODS[name].needs, network)]


def _methods(chosen: Chosen) -> list[str]:
    _restore_settings()
    names = [*applicable(chosen), *_answered(chosen, [name for name in METHODS if has_its_file(name)])]
    address.restore_several("methods", names, [DEFAULT_METHOD])
    methods: list[str] = st.multiselect(
        "Methods", names, key="methods", max_selections=MOST_METHODS,
        help="Up to four, side by side. pixel_evidence takes some 300 views of the picture for a box; layer_cam takes "
        "one.",
    )  # fmt: skip
    address.save("methods", methods, [DEFAULT_METHOD])
    _save_settings(methods)
    for method in methods:
        with st.expander(f"Settings of {method}"):
            settings_form(method)
    st.session_state.setdefault("wants_curves", True)
    st.checkbox(
        "Measure insertion and deletion", key="wants_curves",
        help="How the score rises while the pixels appear in the order of the map, and falls while they vanish.",
    )  # fmt: skip
    return methods


def _restore_settings() -> None:
    """Settings too are in the address: ``set=layer_cam.layers=model.15``."""
    if st.session_state.get("settings") is None:
        st.session_state["settings"] = {}
        for text in st.query_params.get_all("set")[:50]:
            _take_setting(text)


def _save_settings(methods: Sequence[str]) -> None:
    words = [
        f"{method}.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for method in methods
        for name, value in settings_of(method).items()
    ]
    address.save("set", words)


def _take_setting(text: str) -> None:
    from argparse import ArgumentTypeError

    from detxai.commands.options import setting

    method, _, rest = text.partition(".")
    try:
        name, value = setting(rest)
        make_method(method, **{**settings_of(method), name: value})
    except (ValueError, TypeError, ImportError, ArgumentTypeError):
        return
    st.session_state["settings"].setdefault(method, {})[name] = value


def _key(chosen: Chosen, box: int, method: str) -> Key:
    settings = json.dumps(settings_of(method), sort_keys=True)
    return repr(chosen.choice), chosen.picture.key, box, method, settings, st.session_state.get("wants_curves", True)


def _wanted(session: Session, chosen: Chosen, box: int, methods: Sequence[str]) -> dict[str, MethodResult]:
    """A result for each method: those that are there, and, from a job that starts now, those that are not."""
    keys = {method: _key(chosen, box, method) for method in methods}
    missing = {}
    for method, key in keys.items():
        if key in session.results:
            continue
        try:
            missing[method] = MethodResult(_made(method))
        except (ValueError, TypeError, ImportError) as error:
            missing[method] = MethodResult(METHODS[DEFAULT_METHOD](), "failed", error=f"{method}: {error}")
    for key in keys.values():
        if key in session.results:
            session.results.move_to_end(key)  # in use: not among the first to make room
    running = set(map(id, session.job.results)) if session.job is not None and session.is_working else set()
    abandoned = running - {id(session.results[key]) for key in keys.values() if key in session.results}
    if missing or abandoned:
        _start(session, chosen, box, {keys[method]: result for method, result in missing.items()}, keys)
    return {method: session.results[key] for method, key in keys.items()}


def _start(session: Session, chosen: Chosen, box: int, missing: dict[Key, MethodResult], keys: dict[str, Key]) -> None:
    """Stop what goes on, and do what is wanted and not done."""
    unfinished = {}
    if session.job is not None and session.is_working:
        session.stop()
        session.job.wait(60)
        for method, key in keys.items():  # wanted still, though begun together with what is not
            result = session.results.get(key)
            if result is not None and result in session.job.results and result.status == "stopped":
                unfinished[key] = MethodResult(_made(method))
    work = {key: result for key, result in {**unfinished, **missing}.items() if result.status != "failed"}
    for key, result in {**missing, **work}.items():
        session.keep(key, result)
    if work:
        curves = bool(st.session_state.get("wants_curves", True))
        session.job = Job(chosen.detector, chosen.image, chosen.detections[box], list(work.values()), curves)
        session.job.start()
        session.job.wait_for_map(FIRST_LOOK)


def _made(method: str) -> Any:
    settings = settings_of(method)
    if "keep_partial" in setting_names(method):
        settings.setdefault("keep_partial", True)
    if "progress" in setting_names(method):
        settings.setdefault("progress", False)
    return make_method(method, **settings)


def _maps(session: Session, chosen: Chosen, box: int, results: dict[str, MethodResult]) -> None:
    working = session.is_working

    @st.fragment(run_every=EVERY if working else None)
    def look() -> None:
        if working:
            _stop_button(session)
        summaries(results, chosen.detections[box])
        if working and not session.is_working:
            st.rerun()

    look()
    if working:
        return
    if any(result.status == "stopped" for result in results.values()) and st.button("Go on: explain it again, whole"):
        for method in results:
            if results[method].status == "stopped":
                session.results.pop(_key(chosen, box, method), None)
        st.rerun()
    names = list(results)
    if st.session_state.get("shown") not in names:
        st.session_state["shown"] = names[0]
    if len(names) > 1:
        st.segmented_control("Shown below (keys 1 to 4)", names, key="shown", required=True)
    details(session, chosen, box, st.session_state["shown"], results)


def _stop_button(session: Session) -> None:
    st.button("Stop, and keep what there is", on_click=session.stop, type="primary", key="stop")


def shown_result(session: Session, chosen: Chosen, box: int) -> tuple[str, MethodResult] | None:
    """The method whose map the page shows, and its result, if there is a map."""
    methods = st.session_state.get("methods", [])
    ordered = sorted(methods, key=lambda method: method != st.session_state.get("shown"))
    for method in ordered:
        result = session.results.get(_key(chosen, box, method))
        if result is not None and result.explanation is not None:
            return escaped(method), result
    return None
