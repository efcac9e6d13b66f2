"""What if these pixels were hidden? The map is tested by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import streamlit as st

from detxai.app.painting import EFFECTS, Effect, Reaction, paint_mask, painted, react
from detxai.app.sentences import escaped, sentence
from detxai.app.session import Session
from detxai.app.views.components import paintable
from detxai.app.views.explain import choose_box, shown_result
from detxai.app.views.results import quick_picture
from detxai.app.views.sidebar import Chosen
from detxai.explanation import Explanation
from detxai.pages.pictures import fitted, outline

WIDEST = 900


def show(session: Session, chosen: Chosen | None) -> None:
    """The page."""
    if chosen is None:
        st.info("Choose a detector and a picture at the left.")
        return
    box = st.session_state.get("box")
    found = None if box not in chosen.places else shown_result(session, chosen, box)
    if box is None or found is None:
        st.info("First choose a box on the page Explain, and have a map of it: this page tests that map.")
        choose_box(chosen)
        return
    if session.is_working:
        st.info("A map is still being made; the detector is free when that is done or stopped, on the page Explain.")
        return
    method, result = found
    assert result.explanation is not None
    left, right = st.columns([5, 3], gap="large")
    with right:
        effect, colour, radius, under = _tools(chosen)
    with left:
        mask = _mask(chosen, box, method, result.explanation, radius, under)
    with right:
        _answer(chosen, method, result.explanation, mask, effect, colour)


def _tools(chosen: Chosen) -> tuple[Effect, tuple[float, float, float], float, bool]:
    longest = max(chosen.image.shape[:2])
    effect = st.selectbox(
        "What the paint does", EFFECTS, key="effect", help="black; blurred; the picture's mean colour"
    )
    picked = st.color_picker("Colour", "#808080") if effect == "colour" else "#000000"
    colour = tuple(int(picked[i : i + 2], 16) / 255 for i in (1, 3, 5))
    share = st.slider("Brush, per cent of the longer side", 1, 30, 6, key="brush")
    under = st.checkbox("Show the map under the brush", value=True, key="map_under_brush")
    return effect, colour, share / 200 * longest, under  # type: ignore[return-value]


def _mask(
    chosen: Chosen, box: int, method: str, explanation: Explanation, radius: float, under: bool
) -> npt.NDArray[np.bool_]:
    height, width = chosen.image.shape[:2]
    picture = quick_picture(explanation) if under else _plain(chosen, box)
    key = f"{chosen.picture.name}-{box}"
    strokes = paintable(picture, (height, width), radius, key, f"the picture under the map of {method}, to paint on")
    whole = st.segmented_control(
        "Or cover, without a mouse", ["nothing more", "the box", "all but the box"], default="nothing more",
        key=f"cover-{key}", required=True,
    )  # fmt: skip
    try:
        mask = paint_mask(strokes, height, width)
    except (ValueError, TypeError) as error:
        st.error(escaped(sentence(error)))
        mask = np.zeros((height, width), dtype=bool)
    x1, y1, x2, y2 = (round(side) for side in chosen.detections.boxes[box].tolist())
    inside = np.zeros_like(mask)
    inside[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = True
    return mask | (inside if whole == "the box" else ~inside if whole == "all but the box" else np.zeros_like(mask))


def _plain(chosen: Chosen, box: int) -> object:
    height, width = chosen.image.shape[:2]
    scale = min(1.0, WIDEST / width)
    picture = fitted(chosen.image, (round(width * scale), max(1, round(height * scale))))
    return outline(picture, chosen.detections.boxes[box].tolist(), scale=scale)


def _answer(
    chosen: Chosen,
    method: str,
    explanation: Explanation,
    mask: npt.NDArray[np.bool_],
    effect: Effect,
    colour: tuple[float, float, float],
) -> None:
    if not mask.any():
        st.info("Paint over the picture: what of it does the detector need?")
        return
    edited = painted(chosen.image, mask, effect, colour)
    try:
        reaction = react(chosen.detector, explanation, edited, mask)
    except (ValueError, RuntimeError) as error:
        st.error(escaped(sentence(error)))
        return
    _figures(method, explanation, mask, reaction)
    st.image(
        edited, width="stretch", alt="the picture as the detector now sees it", caption="what the detector now sees"
    )


def _figures(method: str, explanation: Explanation, mask: npt.NDArray[np.bool_], reaction: Reaction) -> None:
    detection = explanation.detection
    assert detection is not None
    columns = st.columns(3)
    columns[0].metric("Before", f"{reaction.before:.3f}")
    columns[1].metric("Now", f"{reaction.after:.3f}", f"{reaction.after - reaction.before:+.3f}", delta_color="off")
    if reaction.predicted is not None:
        columns[2].metric(
            "By the map",
            f"{reaction.predicted:.3f}",
            f"{reaction.predicted - reaction.before:+.3f}",
            delta_color="off",
        )
    st.caption(
        f"You covered {mask.mean():.0%} of the picture and {reaction.share:.0%} of the evidence by {method}. "
        "The score of the box is that of its class, times the overlap. "
        + ("A map shares out the score as if parts did not depend on one another: where each of two would do alone, "
           "or both are needed, its prediction is off." if reaction.predicted is not None else
           "The values of this map are no shares of the score, so it predicts no number.")
    )  # fmt: skip
    if len(reaction.found):
        now = f"{escaped(reaction.found.name(0))} {float(reaction.found.scores[0]):.2f}"
        st.markdown(f"Where the box was, the detector now finds **{now}** (overlap {reaction.iou:.2f}).")
    else:
        st.markdown("Where the box was, the detector now finds **nothing** above 0.25.")
