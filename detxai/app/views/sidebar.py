"""What every page is about: the detector, the picture, and which of its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from detxai.adapters.detector import Detector
from detxai.app.detectors.models import (
    CONSENT,
    UPLOADS,
    NeedsPickleError,
    builders,
    bundled_choices,
    check_path,
    file_digest,
    store_model,
)
from detxai.app.options import MEGABYTE, ModelChoice, current_options
from detxai.app.pictures import SUFFIXES, Picture, bundled_pictures, pictures_in, store_upload
from detxai.app.sentences import escaped, sentence
from detxai.app.session import Session
from detxai.app.views import address, notices
from detxai.detections import Detections

BY_DEFAULT = 0.25  # the threshold of ``detxai explain``
KEPT = ("page", "model", "image", "threshold", "classes", "box", "methods", "shown", "wants_curves", "run")


@dataclass(frozen=True)
class Chosen:
    """What is on the page.

    Attributes:
        detector, choice: and how it is named.
        picture: and its pixels, ``image`` (H, W, 3).
        detections: all that the page has.
        places: of those that threshold and class filter leave.
    """

    detector: Detector
    choice: ModelChoice
    picture: Picture
    image: npt.NDArray[np.uint8]
    detections: Detections
    places: Sequence[int]


def sidebar(session: Session) -> Chosen | None:
    """The sidebar; None where there is nothing to explain yet, and the page says why."""
    detector = _detector(session)
    picture = _picture(session)
    if detector is None or picture is None or session.choice is None:
        return None
    try:
        with st.spinner("Detecting …"):
            image = picture.load()
            detections = session.detect(picture)
    except Exception as error:  # whatever a detector of the visitor's raises
        st.error(f"{escaped(picture.name)}: {escaped(sentence(error, session.folder))}")
        return None
    return Chosen(detector, session.choice, picture, image, detections, _filtered(detections))


def choices(session: Session) -> dict[str, ModelChoice]:
    """Every detector that can be chosen, by name; the command line's first."""
    given = current_options().model
    offered = ([] if given is None else [given]) + bundled_choices() + list(session.models.values())
    return {choice.name: choice for choice in offered}


def _detector(session: Session) -> Detector | None:
    offered = choices(session)
    names = list(offered)
    address.restore("model", names, names[0])
    name = st.selectbox("Detector", names, key="model", on_change=_forget_box)
    address.save("model", name)
    _more_models(session)
    choice = offered[name]
    try:
        with st.spinner(f"Loading {escaped(name)} …"):
            return session.use(choice)
    except NeedsPickleError as error:
        _ask_consent(session, choice, error)
    except Exception as error:  # transformers and onnxruntime raise errors of their own
        st.error(escaped(sentence(error, session.folder)))
    return None


def _more_models(session: Session) -> None:
    with st.expander("Another detector"):
        path = st.text_input(
            "Path on this machine, or a builder's name",
            help="a YOLO .pt, an exported .onnx, .xml or .torchscript, a folder of save_pretrained, or a torchvision "
            "builder such as fasterrcnn_resnet50_fpn",
            disabled=not current_options().is_local,
        )
        if path and st.button("Use this path"):
            _add(session, lambda: check_path(path))
        files = st.file_uploader(
            "Or upload it", UPLOADS, accept_multiple_files=True, key=f"model-files-{_round('models')}",
            max_upload_size=max(1, current_options().max_upload // MEGABYTE),
            help="one .pt or .onnx; weights (.safetensors, .pth) and their builder; or all files of a folder that "
            "save_pretrained wrote. A .txt holds class names, one a line.",
        )  # fmt: skip
        builder = st.selectbox("The builder that these weights are for", builders(), index=None)
        names = st.text_area("Class names, one a line", placeholder="the detector's own", height=80)
        if files and st.button("Use the upload"):
            named = {file.name: file for file in files}
            _add(session, lambda: store_model(named, session.folder, builder, names), files)
        notices.show("models")


def _add(session: Session, make: object, files: Sequence[UploadedFile] = ()) -> None:
    assert callable(make)
    try:
        choice: ModelChoice = make()
    except (ValueError, TypeError, OSError) as error:
        notices.keep("models", [sentence(error, session.folder)])
        return
    notices.keep("models", [])
    session.models[choice.name] = choice
    st.session_state["next_model"] = choice.name
    if files:
        _empty_uploader("models", files)
    st.rerun()


def _ask_consent(session: Session, choice: ModelChoice, error: NeedsPickleError) -> None:
    path = Path(choice.model)
    digest = file_digest(path)
    st.warning(f"**{escaped(path.name)}** does not open safely. {CONSENT}")
    st.caption(f"SHA-256 of the file: {digest}")
    agreed = st.checkbox("I know who made this file, and let it run on this machine", key=f"consent-{digest}")
    if st.button("Open it", disabled=not agreed, key=f"open-{digest}") and agreed:
        trusted = ModelChoice(choice.model, class_names=choice.class_names, is_trusted=True, label=choice.name)
        session.models[trusted.name] = trusted
        st.rerun()


def _picture(session: Session) -> Picture | None:
    _take_uploads(session)
    options = current_options()
    offered = {**session.uploads, **({} if options.images is None else pictures_in(options.images))}
    offered |= {} if options.images is not None and offered else bundled_pictures()
    names = list(offered)
    address.restore("image", names, names[0])
    name = st.selectbox("Picture", names, key="image", on_change=_forget_box)
    address.save("image", name)
    st.session_state["image_names"] = names
    return offered[name]


def _take_uploads(session: Session) -> None:
    options = current_options()
    files = st.file_uploader(
        "Drop pictures here", [suffix[1:] for suffix in SUFFIXES], accept_multiple_files=True,
        key=f"pictures-{_round('pictures')}", max_upload_size=min(options.max_upload, 64 * MEGABYTE) // MEGABYTE or 1,
    )  # fmt: skip
    notices.show("pictures")
    if not files:
        return
    problems, newest = [], None
    for file in files[: options.max_images]:
        try:
            newest = store_upload(file, file.name, session.folder, options.max_pixels)
        except (ValueError, OSError) as error:
            problems.append(sentence(error, session.folder))
            continue
        session.uploads[newest.name] = newest
    _drop_oldest(session, options.max_images)
    notices.keep("pictures", problems)
    if newest is not None:
        st.session_state["next_image"] = newest.name
        _forget_box()
    _empty_uploader("pictures", files)
    st.rerun()


def _empty_uploader(name: str, files: Sequence[UploadedFile]) -> None:
    """Show an empty uploader, and free the files, which Streamlit would keep in memory until the visitor leaves."""
    st.session_state[f"round-{name}"] = _round(name) + 1
    run = get_script_run_ctx()
    if run is not None:
        for file in files:
            run.uploaded_file_mgr.remove_file(run.session_id, file.file_id)


def _drop_oldest(session: Session, most: int) -> None:
    while len(session.uploads) > most:
        oldest = session.uploads.pop(next(iter(session.uploads)))
        if oldest.path is not None and all(oldest.path != kept.path for kept in session.uploads.values()):
            oldest.path.unlink(missing_ok=True)


def _filtered(detections: Detections) -> list[int]:
    address.restore_number("threshold", 0.05, 0.95, BY_DEFAULT)
    threshold = st.slider("Score from", 0.05, 0.95, step=0.01, key="threshold")
    address.save("threshold", f"{threshold:g}", f"{BY_DEFAULT:g}")
    names = sorted({detections.name(i) for i in range(len(detections))})
    address.restore_several("classes", names, [])
    wanted = st.multiselect("Classes", names, key="classes", placeholder="all")
    address.save("classes", wanted)
    scores = detections.scores.tolist()
    return [i for i, score in enumerate(scores) if score >= threshold and (not wanted or detections.name(i) in wanted)]


def apply_pending() -> None:
    """Choices that a page made for widgets drawn before it: set before they are drawn again."""
    for key in KEPT:
        if key in st.session_state:  # Streamlit forgets what no widget of the last run had
            st.session_state[key] = st.session_state[key]
        if f"next_{key}" in st.session_state:
            st.session_state[key] = st.session_state.pop(f"next_{key}")


def _forget_box() -> None:
    st.session_state["box"] = None


def _round(name: str) -> int:
    return int(st.session_state.get(f"round-{name}", 0))
