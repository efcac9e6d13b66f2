"""A run over a data set: its mistakes as a table and as pictures, and each of them one click from *Explain*."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from detxai.app.coco_runs import (
    RunProgress,
    is_concept_search,
    is_evaluation,
    is_run,
    model_of,
    progress_of,
    run_folders,
    start_run,
    table_of,
)
from detxai.app.options import current_options
from detxai.app.pictures import Picture
from detxai.app.sentences import escaped, sentence
from detxai.app.session import Session
from detxai.app.views import address, cases, notices
from detxai.app.views.concepts import concept_folders, show_concepts
from detxai.app.views.evaluation import evaluation_folders, show_evaluation
from detxai.app.views.results import quick_picture
from detxai.app.views.sidebar import Chosen
from detxai.coco.dataset import ExplainedBoxes, load
from detxai.methods import methods_without_file
from detxai.pages.pictures import captioned

GALLERY, COLUMNS = 12, 4
EVERY = 1.0  # seconds between two looks at a run that goes on
OTHER = "another folder …"


def show(session: Session, chosen: Chosen | None) -> None:
    """The page."""
    runs = current_options().runs
    offered = {**run_folders(runs), **evaluation_folders(runs), **concept_folders(runs)}
    names = [*offered, OTHER]
    address.restore("run", names, names[0])
    name = st.selectbox("Run", names, key="run", help=f"the folders in {runs}")
    address.save("run", name)
    folder = offered.get(name or "") or _other_folder()
    with st.expander("Start a run", expanded=not offered):
        _start(session, runs)
    if folder is None:
        return
    try:
        if is_concept_search(folder):
            show_concepts(session, folder)
        elif is_evaluation(folder):
            show_evaluation(folder)
        elif is_run(folder):
            _show_run(session, folder)
        else:
            st.error(f"{escaped(str(folder))} holds no run of detxai coco, and no finished detxai evaluate "
                     "or detxai concepts find.")  # fmt: skip
    except (ValueError, OSError, LookupError, ImportError) as error:
        st.error(escaped(sentence(error)))


def _other_folder() -> Path | None:
    given = st.text_input("Folder of a run on this machine", disabled=not current_options().is_local, key="folder")
    return Path(given).expanduser() if given else None


def _start(session: Session, runs: Path) -> None:
    st.caption(f"detxai coco in the background: it goes on without this page. Its folder comes into {runs}.")
    with st.form("start-run", border=False):
        images = st.text_input("Folder of the images", str(current_options().images or ""))
        annotations = st.text_input("COCO annotations (.json)")
        columns = st.columns(3)
        name = columns[0].text_input("Name of the run", "run-1")
        names = list(methods_without_file())
        method = columns[1].selectbox("Method", names, index=names.index("layer_cam"))
        most = columns[2].number_input("Images at most (0: all)", min_value=0, value=20, step=1)
        wanted = st.form_submit_button("Start")
    if wanted:
        try:
            if session.choice is None:
                raise ValueError("Choose a detector at the left first.")
            if not current_options().is_local:
                raise ValueError("Runs are started on the machine itself: this page is served to others.")
            folder = start_run(runs, name, session.choice, Path(images), Path(annotations), method, int(most) or None)
        except (ValueError, OSError) as error:
            notices.keep("start-run", [sentence(error)])
        else:
            notices.keep("start-run", [])
            _open(folder)
    notices.show("start-run")


def _open(folder: Path) -> None:
    st.session_state.pop("run", None)
    st.query_params["run"] = folder.name
    st.rerun()


def _show_run(session: Session, folder: Path) -> None:
    progress = progress_of(folder)

    @st.fragment(run_every=EVERY if progress.is_going_on else None)
    def look() -> None:
        now = progress_of(folder) if progress.is_going_on else progress
        _progress(now)
        if now.is_going_on != progress.is_going_on:
            st.rerun()

    look()
    if (folder / "manifest.json").is_file() and progress.n_explained:
        _cases(session, folder)


def _progress(progress: RunProgress) -> None:
    n, most = progress.n_explained, progress.n_selected
    if most:
        st.progress(min(1.0, n / most), text=f"{progress.stage}: {n} of {most} boxes explained")
    else:
        st.markdown(f"The run is **{progress.stage}**.")
    background = progress.background
    if background is None:
        return
    if progress.is_going_on:
        st.button("Stop the run", on_click=background.stop, help="what is finished is kept")
    with st.expander("What it printed", expanded=progress.n_selected is None and not progress.is_going_on):
        st.code(background.log_tail() or "nothing yet", language=None, wrap_lines=True)


def _cases(session: Session, folder: Path) -> None:
    boxes = load(folder)
    table = _filtered(table_of(boxes))
    if table.empty:
        st.info("No box is left by these filters.")
        return
    shown = st.dataframe(
        table, hide_index=True, on_select="rerun", selection_mode="single-row", key="cases", height=300,
        column_config={
            "outside_box": st.column_config.NumberColumn("outside the box", format="%.2f"),
            "score": st.column_config.NumberColumn(format="%.2f"), "area": st.column_config.NumberColumn(format="%.0f"),
        },
        column_order=["row", "kind", "category", "score", "area", "outside_box", "file_name", "stage"],
    )  # fmt: skip
    picked = shown["selection"]["rows"] if shown else []
    rows = table["row"].tolist()
    if picked and picked[0] < len(rows) and rows[picked[0]] != st.session_state.get("last_picked"):
        st.session_state["last_picked"] = st.session_state["case"] = rows[picked[0]]
    if st.session_state.get("case") not in rows:
        st.session_state["case"] = rows[0]
    case = st.selectbox("Case", rows, key="case", format_func=lambda row: _case_name(table, row))
    places = {row: place for place, row in enumerate(boxes.table(["row"])["row"].to_pylist())}
    _case(session, folder, boxes, places[case])
    _gallery(boxes, [places[row] for row in rows[:GALLERY]])


def _case_name(table: Any, row: int) -> str:
    one = table[table["row"] == row].iloc[0]
    score = "" if one["score"] != one["score"] else f" {one['score']:.2f}"
    return f"{row}: {one['kind'].replace('_', ' ')}, {one['category']}{score}, {one['file_name']}"


def _filtered(table: Any) -> Any:
    columns = st.columns(3)
    for column, (name, label) in zip(columns, (("kind", "Kind"), ("category", "Class"))):
        known = sorted(table[name].unique())
        wanted = column.multiselect(label, known, key=f"cases-{name}", placeholder="all")
        if wanted:
            table = table[table[name].isin(wanted)]
    order = columns[2].selectbox("Sort by", ["row", "outside_box", "score", "area"], key="cases-order")
    columns = st.columns(3)
    low, high = columns[0].slider("Score", 0.0, 1.0, (0.0, 1.0), key="cases-score")
    table = table[table["score"].isna() | table["score"].between(low, high)]
    least, most = columns[1].slider("Side (root of the area), pixels", 0, 1000, (0, 1000), key="cases-side")
    sides = table["area"] ** 0.5
    table = table[(sides >= least) & ((sides <= most) | (most == 1000))]
    outside = columns[2].slider("Evidence outside the box, from", 0.0, 1.0, 0.0, key="cases-outside")
    table = table[table["outside_box"] >= outside]
    return table.sort_values(order, ascending=order == "row", kind="stable")


def _case(session: Session, folder: Path, boxes: ExplainedBoxes, place: int) -> None:
    row = boxes.row(place)
    left, right = st.columns([3, 2], gap="large")
    try:
        explanation = boxes[place]
    except (ValueError, OSError) as error:
        st.error(escaped(sentence(error)))
        return
    with left:
        st.image(quick_picture(explanation), width="stretch", alt=f"evidence for {explanation.caption}")
    with right:
        st.markdown(f"**{escaped(row['kind'].replace('_', ' '))}** · {escaped(row['category'])}")
        facts = {
            "score": row["score"],
            "overlap with the annotation": row["iou"],
            "annotated as": row["annotation_category"],
            "costs AP": row["ap_loss"],
            "evidence outside the box": 1 - row["energy_box"],
            "missed because": row["stage"],
            "method": row["method"],
        }
        st.table([{"": name, "this case": _text(value)} for name, value in facts.items() if value is not None])
        if isinstance(boxes.images, Path) and st.button("Explain this case", type="primary"):
            name, path = str(row["file_name"]), boxes.images / row["file_name"]
            picture = Picture(name, str(path.resolve()), path)
            cases.send(session, picture, row["box"], row["category"], row["kind"], model_of(folder))


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escaped(str(value))


def _gallery(boxes: ExplainedBoxes, places: list[int]) -> None:
    st.markdown(f"**The first {len(places)} of the table**")
    columns = st.columns(COLUMNS)
    for number, place in enumerate(places):
        row = boxes.row(place)
        try:
            picture = quick_picture(boxes[place])
        except (ValueError, OSError):
            continue
        lines = [f"{row['row']}: {row['kind'].replace('_', ' ')}", row["category"]]
        columns[number % COLUMNS].image(captioned(picture, lines), width="stretch", alt=", ".join(lines))
