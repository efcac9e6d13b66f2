"""What detxai understood of the detector, and what the methods cost here, measured on the picture."""

from __future__ import annotations

import time

import streamlit as st

from detxai.adapters.network import NetworkDetector
from detxai.app.jobs import Job, MethodResult
from detxai.app.sentences import escaped, sentence
from detxai.app.session import Session
from detxai.app.views.explain import EVERY, applicable
from detxai.app.views.sidebar import Chosen
from detxai.commands.methods.run import NEEDS, describe
from detxai.explain import make_method, setting_names
from detxai.methods import METHODS


def show(session: Session, chosen: Chosen | None) -> None:
    """The page."""
    if chosen is None:
        st.info("Choose a detector and a picture at the left.")
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        _description(chosen)
    with right:
        _classes(chosen)
    _methods(session, chosen)


def _description(chosen: Chosen) -> None:
    detector = chosen.detector
    facts = {name.replace("_", " "): str(value) for name, value in detector.describe().items()}
    if isinstance(detector, NetworkDetector):
        facts["layers explained"] = ", ".join(detector.default_layers)
        facts["the network inside"] = "yes: features and gradients can be asked for"
    else:
        facts["the network inside"] = "no: only its answers are known"
    height, width = chosen.image.shape[:2]
    try:
        inputs = detector.prepare_one(chosen.image).tensor.shape[-2:]
        facts["input for this picture"] = f"{inputs[1]} x {inputs[0]} (the picture: {width} x {height})"
    except (ValueError, TypeError) as error:
        facts["input for this picture"] = sentence(error)
    st.markdown(f"**{escaped(chosen.choice.name)}**")
    st.table([{"": name, "what was understood": escaped(value)} for name, value in facts.items()])


def _classes(chosen: Chosen) -> None:
    names = chosen.detector.class_names
    st.markdown(f"**{len(names)} classes**")
    st.dataframe([{"label": label, "class": name} for label, name in names.items()], hide_index=True, height=280)


def _methods(session: Session, chosen: Chosen) -> None:
    names = applicable(chosen)
    st.markdown("**Methods that apply, and what they cost here**")
    measured: dict[str, MethodResult] = st.session_state.setdefault("measured", {})
    key = (repr(chosen.choice), chosen.picture.key)
    if st.session_state.get("measured_key") != key:
        st.session_state["measured_key"], measured = key, {}
        st.session_state["measured"] = measured
    if not chosen.places:
        st.info("There is no box in this picture to measure on: lower the threshold, or choose another picture.")
    else:
        st.caption(
            "Measured on the strongest box of the picture. With pixel_evidence, region_shapley and d_rise that takes "
            "some hundred passes each; Stop keeps what is measured."
        )
        wanted = st.multiselect("Which", names, default=names[:1] + [n for n in names if n == "layer_cam"], key="which")
        if st.button("Measure", disabled=session.is_working) and wanted:
            _measure(session, chosen, wanted, measured)
    working = session.is_working

    @st.fragment(run_every=EVERY if working else None)
    def look() -> None:
        if working:
            st.button("Stop", on_click=session.stop, key="stop-measuring")
        st.dataframe([_row(name, measured.get(name)) for name in names], hide_index=True)
        if working and not session.is_working:
            st.rerun()

    look()


def _measure(session: Session, chosen: Chosen, names: list[str], measured: dict[str, MethodResult]) -> None:
    strongest = max(chosen.places, key=lambda place: float(chosen.detections.scores[place]))
    session.stop()
    for name in names:
        settings = {key: False for key in ("progress",) if key in setting_names(name)}
        settings |= {key: True for key in ("keep_partial",) if key in setting_names(name)}
        try:
            measured[name] = MethodResult(make_method(name, **settings))
        except (ValueError, TypeError, ImportError) as error:
            measured[name] = MethodResult(METHODS["eigen_cam"](), "failed", error=sentence(error))
    work = [measured[name] for name in names if measured[name].status != "failed"]
    session.job = Job(chosen.detector, chosen.image, chosen.detections[strongest], work, wants_curves=False)
    session.job.start()


def _row(name: str, result: MethodResult | None) -> dict[str, object]:
    about = describe(METHODS[name])
    row: dict[str, object] = {
        "method": name, "seconds": None, "passes": None, "measured": "", "asks": about["asks"],
        "needs": NEEDS.get(about["needs"], about["needs"]), "cost": about["passes"],
    }  # fmt: skip
    if result is not None:
        ended = result.has_ended
        row["seconds"] = round(result.seconds if ended else _so_far(result), 2)
        row["passes"] = None if result.explanation is None else result.explanation.cost.forward_passes
        row["measured"] = result.error or result.status
    return row


def _so_far(result: MethodResult) -> float:
    return time.perf_counter() - result.began if result.began else 0.0
