"""A box of a run, sent to the page *Explain* and found again there, among the detections of today."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
import torch

from detxai.app.pictures import Picture
from detxai.app.session import Session
from detxai.app.views import notices
from detxai.app.views.sidebar import Chosen, choices
from detxai.geometry import box_iou

SAME_BOX = 0.5  # IoU from which a detection is the box of a run


def send(
    session: Session, picture: Picture, box: Sequence[float], category: str, kind: str = "", model: str | None = None
) -> None:
    """Turn to *Explain* with this box chosen.

    Args:
        session: which gets the picture.
        picture: that the box is in.
        box: xyxy in its pixels.
        category: the name of the box's class.
        kind: of the case, such as ``"missed"``; empty: a detection.
        model: the run's detector, chosen where the page offers it.
    """
    session.uploads[picture.name] = picture
    if model in choices(session):
        st.session_state["next_model"] = model
    st.session_state["next_image"], st.session_state["next_page"] = picture.name, "Explain"
    st.session_state["wanted_box"] = (list(box), category, kind)
    st.rerun()


def take(chosen: Chosen) -> None:
    """Choose the detection that was sent, if one was; else say why there is none."""
    wanted = st.session_state.pop("wanted_box", None)
    if wanted is not None:
        notices.keep("case", _choose(chosen, *wanted))
    elif st.session_state.get("box") is not None or chosen.picture.name != st.session_state.get("case_image"):
        notices.keep("case", [])
    notices.show("case")


def _choose(chosen: Chosen, box: Sequence[float], category: str, kind: str) -> list[str]:
    """Choose the detection that lies where the box does; else why there is none."""
    st.session_state["case_image"] = chosen.picture.name
    overlaps = [
        iou if chosen.detections.name(place) == category else 0.0
        for place, iou in enumerate(box_iou(torch.tensor([box]), chosen.detections.boxes.cpu()).tolist())
    ]
    best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
    if best is not None and overlaps[best] >= SAME_BOX and best in chosen.places:
        st.session_state["box"] = best
        return []
    missed = ", as the run says: it was missed. The page Data set shows its map." if kind == "missed" else "."
    return [f"This detector has no {category} there above the threshold{missed}"]
