"""What the methods found for one box: side by side while it comes, and one of them with all that belongs to it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import streamlit as st

from detxai.app.jobs import MethodResult
from detxai.app.recipes import command_line, place_of, python_code
from detxai.app.sentences import escaped
from detxai.app.session import Session
from detxai.app.views.settings_form import settings_of
from detxai.app.views.sidebar import Chosen
from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.pages.map_figure import map_figure
from detxai.pages.pictures import data_uri, figure_png, outline, under_map
from detxai.pages.plots import colour
from detxai.pages.showing import overlay_png

WIDEST = 900  # pixels of a picture
QUALITY = 90  # of its JPEG
VIEWS = ("Overlay", "Raw map", "Standard error", "Picture")
STATUS = {
    "waiting": "waiting", "running": "working", "measuring": "measuring the curves", "done": "done",
    "stopped": "stopped: the map so far", "failed": "failed",
}  # fmt: skip


def summaries(results: Mapping[str, MethodResult], detection: Detections) -> None:
    """A column for each method: its map so far, how well it is known, and how long it still takes."""
    columns = st.columns(max(2, len(results)) if len(results) > 1 else [3, 2])
    for column, (method, result) in zip(columns, results.items()):
        with column:
            _summary(method, result, detection)


def _summary(method: str, result: MethodResult, detection: Detections) -> None:
    st.markdown(f"**{escaped(method)}** · {STATUS[result.status]}")
    if result.error:
        st.error(escaped(result.error))
    if result.explanation is not None:
        name = f"{detection.name(0)} {float(detection.scores[0]):.2f}"
        # in the message itself: a file that the browser asks for may be replaced by the next round's before it is there
        picture = data_uri(quick_picture(result.explanation), "JPEG", quality=QUALITY)
        st.image(picture, width="stretch", alt=f"evidence for {name}, by {method}")
    elif not result.has_ended:
        st.caption("the first map is on its way")
    if result.steps is not None and not result.has_ended:
        done, most = result.steps
        st.progress(min(1.0, done / max(most, 1)), text=_left(result))
    facts = _facts(result)
    if facts:
        st.caption(" · ".join(facts))


def _facts(result: MethodResult) -> list[str]:
    facts = []
    if result.is_start:
        follow = "" if result.has_ended else "; rounds follow"
        facts.append(f"the start: a first guess, before any part of the picture was hidden{follow}")
    if result.agreement:
        parts = ", ".join(f"{part} {value:.2f}" for part, value in result.agreement.items())
        facts.append(f"expected agreement with another seed: {parts}")
    if result.explanation is not None:
        n_passes = result.explanation.cost.forward_passes
        facts.append(f"{n_passes} pass{'' if n_passes == 1 else 'es'}")
    if result.has_ended and result.seconds:
        facts.append(f"{result.seconds:.1f} s")
    if result.curves is not None:
        insertion, deletion = (float(area[0]) for area in result.curves.areas)
        facts.append(f"insertion {insertion:.3f}, deletion {deletion:.3f}")
    return facts


def _left(result: MethodResult) -> str:
    assert result.steps is not None
    seconds = result.seconds_left
    left = "" if seconds is None else f", at most {seconds:.0f} s to go"
    return f"{result.steps[0]} of at most {result.steps[1]} views{left}"


def quick_picture(explanation: Explanation) -> PIL.Image.Image:
    """The photo under the map with the box, in some milliseconds."""
    height, width = explanation.image.shape[:2]
    scale = min(1.0, WIDEST / width) if width >= 320 else 320 / width
    size = round(width * scale), max(1, round(height * scale))
    picture = under_map(explanation, size)
    if explanation.detection is None:
        return picture
    return outline(picture, explanation.detection.boxes[0].tolist(), scale=scale)


def details(session: Session, chosen: Chosen, box: int, method: str, results: Mapping[str, MethodResult]) -> None:
    """Everything about the map of one method, and the curves of all."""
    result = results[method]
    if result.explanation is None:
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        _large(result.explanation, method)
    with right:
        _curves(results)
        _downloads(result.explanation, f"{chosen.picture.name}-{box}-{method}")
    _recipes(chosen, box, method)


def _large(explanation: Explanation, method: str) -> None:
    view = st.segmented_control("View", VIEWS, key="view", default=VIEWS[0], required=True) or VIEWS[0]
    name = f"{view.lower()} of {method}"
    if view == "Picture":
        st.image(explanation.image, width="stretch", alt="the picture that was explained")
    elif view == "Overlay":
        st.image(overlay_png(explanation, width=WIDEST), width="stretch", alt=name)
    elif view == "Raw map":
        st.image(figure_png(map_figure(explanation.values, "score a pixel")), width="stretch", alt=name)
        total = float(explanation.values.sum(dtype=np.float64))
        st.caption(f"values as they are, never scaled: from {explanation.values.min():.3g} to "
                   f"{explanation.values.max():.3g}, with the sum {total:.4g}")  # fmt: skip
    elif explanation.standard_error is None:
        st.info("This map has no standard error: nothing in it is random, or it is not known.")
    else:
        st.image(figure_png(map_figure(explanation.standard_error, "standard error")), width="stretch", alt=name)


def _curves(results: Mapping[str, MethodResult]) -> None:
    measured = {name: one.curves for name, one in results.items() if one.curves is not None}
    if not measured:
        return
    colours = [colour(place) for place, name in enumerate(results) if name in measured]
    for name, across in (("insertion", "share of the pixels shown"), ("deletion", "share of the pixels hidden")):
        first = next(iter(measured.values()))
        table: dict[str, Any] = {across: first.fractions.tolist()}
        table |= {method: getattr(curves, name)[0].tolist() for method, curves in measured.items()}
        better = "higher is better" if name == "insertion" else "lower is better"
        st.markdown(f"**{name.capitalize()}** ({better})")
        st.line_chart(table, x=across, y=list(measured), color=colours, height=180, x_label=across, y_label="score")
    with st.expander("The curves as a table"):
        st.dataframe(
            [
                {"method": method, "insertion": float(one.areas[0][0]), "deletion": float(one.areas[1][0])}
                for method, one in measured.items()
            ],
            hide_index=True,
        )


def _downloads(explanation: Explanation, stem: str) -> None:
    from detxai.runs.names import safe_name

    name = safe_name(stem, 80)
    npz, record = stored(explanation)
    with st.container(horizontal=True):
        st.download_button("PNG", lambda: overlay_png(explanation), f"{name}.png", "image/png", on_click="ignore")
        st.download_button("NPZ", npz, f"{name}.npz", "application/octet-stream", on_click="ignore")
        st.download_button("JSON", record, f"{name}.json", "application/json", on_click="ignore")


def stored(explanation: Explanation) -> tuple[bytes, bytes]:
    """The two files of ``Explanation.save_map``: the arrays, and what is needed to redo them."""
    with tempfile.TemporaryDirectory(prefix="detxai-") as folder:
        path = explanation.save_map(Path(folder) / "map.npz")
        return path.read_bytes(), path.with_suffix(".json").read_bytes()


def _recipes(chosen: Chosen, box: int, method: str) -> None:
    threshold = min(float(st.session_state.get("threshold", 0.25)), float(chosen.detections.scores[box]))
    threshold = int(threshold * 1000) / 1000  # never above the box's own score
    place = place_of(chosen.detections, box, threshold)
    kept = chosen.picture.path if not chosen.picture.is_uploaded else None
    image = f"{Path(chosen.picture.name).stem}.png" if kept is None else str(kept)
    asked = chosen.choice, image, place, threshold, method, settings_of(method)
    with st.expander("The Python and the command line that do the same"):
        st.code(python_code(*asked), language="python")
        st.code(command_line(*asked), language="bash", wrap_lines=True)
        if kept is None:
            st.download_button(
                f"Save the picture as {image}", _png(chosen.image), image, "image/png", on_click="ignore"
            )


@st.cache_data(max_entries=4, show_spinner=False)
def _png(image: np.ndarray) -> bytes:
    written = io.BytesIO()
    PIL.Image.fromarray(image).save(written, "PNG")
    return written.getvalue()
