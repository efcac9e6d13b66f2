"""A finished ``detxai concepts find``: what matters to each class, and each concept one click from its map of a box."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from detxai.app.coco_runs import is_concept_search
from detxai.app.pictures import Picture, scene_picture
from detxai.app.sentences import escaped, sentence
from detxai.app.session import Session
from detxai.app.views import address, cases
from detxai.app.views.settings_form import keep_settings
from detxai.commands.config import read_config
from detxai.concepts.clusters.folder import ConceptFolder
from detxai.concepts.clusters.report import crop as cropped
from detxai.concepts.clusters.report import strongest_boxes
from detxai.methods import ConceptMap
from detxai.pages.pictures import data_uri

QUANTITIES = ("effect", "prevalence")
SIDE = 120  # pixels of a patch


def concept_folders(below: Path) -> dict[str, Path]:
    """The finished searches for concepts directly below a folder, by name."""
    return {path.name: path for path in sorted(below.iterdir()) if is_concept_search(path)} if below.is_dir() else {}


def show_concepts(session: Session, folder: Path) -> None:
    """Classes and concepts, the patches of one, and how they were found.

    Raises:
        ValueError, LookupError, OSError: the folder's files are damaged.
    """
    summary: Mapping[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    layers = ", ".join(summary["request"]["search"]["layers"])
    st.markdown(
        f"**What {escaped(str(summary['model']))} looks at**, in {summary['n_boxes']} boxes that it found: clusters of "
        f"its features at {escaped(layers)}"
    )
    _classes_and_concepts(summary)
    of_class = _chosen_class(summary)
    number = _chosen_concept(of_class)
    _patches(session, folder, of_class, number)
    _bounds(summary["mixtures"])


def _classes_and_concepts(summary: Mapping[str, Any]) -> None:
    quantity = st.segmented_control(
        "Classes and concepts", QUANTITIES, key="concept-quantity", default=QUANTITIES[0], required=True,
        help="effect: the share of a box's score that is lost without the concept, mean of the class. prevalence: the "
        "share of the boxes in which a place belongs to it.",
    )  # fmt: skip
    st.dataframe(matrix_rows(summary, quantity or QUANTITIES[0]), hide_index=True)
    st.caption(
        "The two concepts of each class with the largest effects, by their numbers. Surroundings: the share of the "
        "score that is lost when all but the box is hidden."
    )


def matrix_rows(summary: Mapping[str, Any], quantity: str) -> list[dict[str, Any]]:
    """A row for each class: mean ``"effect"`` or ``"prevalence"`` of the two foremost concepts of every class."""
    numbers = sorted({entry["number"] for of_class in summary["classes"] for entry in of_class["concepts"][:2]})
    rows = []
    for of_class in summary["classes"]:
        entries = {entry["number"]: entry for entry in of_class["concepts"]}
        row = {"class": of_class["name"], "boxes": of_class["n_boxes"], "surroundings": of_class["context"]["mean"]}
        for number in numbers:
            value = entries[number][quantity]
            row[f"concept {number}"] = value["mean"] if quantity == "effect" else value
        rows.append(row)
    return rows


def _chosen_class(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    classes = {str(one["label"]): one for one in summary["classes"]}
    labels = list(classes)
    address.restore("concept_class", labels, labels[0])
    label = st.selectbox(
        "Class", labels, format_func=lambda one: classes[one]["name"], key="concept_class", on_change=_forget_concept
    )
    address.save("concept_class", label, labels[0])
    of_class: Mapping[str, Any] = classes[label or labels[0]]
    st.dataframe(concept_rows(of_class), hide_index=True, height=250)
    st.caption(f"{of_class['n_boxes']} boxes in {of_class['n_images']} pictures; from, to: 95 % interval over pictures")
    return of_class


def concept_rows(of_class: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each concept of a class, by falling effect, as its summary says."""
    return [
        {
            "concept": entry["number"],
            "effect": entry["effect"]["mean"],
            "from": entry["effect"]["low"],
            "to": entry["effect"]["high"],
            "prevalence": entry["prevalence"],
            **({"on the known evidence": entry["evidence_mass"]} if "evidence_mass" in entry else {}),
        }
        for entry in of_class["concepts"]
    ]


def _chosen_concept(of_class: Mapping[str, Any]) -> int:
    effects = {str(entry["number"]): entry["effect"]["mean"] for entry in of_class["concepts"]}
    numbers = list(effects)
    address.restore("concept", numbers, numbers[0])
    number = st.selectbox(
        "Concept", numbers, format_func=lambda one: f"{one}: effect {effects[one]:.2f}", key="concept"
    )
    address.save("concept", number, numbers[0])
    return int(number or numbers[0])


def _forget_concept() -> None:
    """Of another class another concept is the foremost."""
    st.session_state["concept"] = None
    address.save("concept", None)


def _patches(session: Session, folder: Path, of_class: Mapping[str, Any], number: int) -> None:
    records = _records(folder, (folder / "summary.json").stat().st_mtime_ns)
    places = strongest_boxes(records, of_class["label"], number)
    if not places:
        lost = any(record["label"] == of_class["label"] for record in records)
        st.info("No box of this class loses anything without this concept." if lost else
                "This run does not say which pictures its boxes are in: run it again, in a new folder.")  # fmt: skip
        return
    st.markdown(f"**Where concept {number} is strongest**, in the boxes that lose most without it")
    config = read_config(folder / "run.yaml")
    with st.container(horizontal=True):
        for place in places:
            with st.container(width=SIDE + 20):
                _patch(session, folder, config, records[place], of_class["name"], number, place)


@lru_cache(maxsize=2)
def _records(folder: Path, changed: int) -> list[dict[str, Any]]:
    """The records of all boxes: a file for each picture, so not read at every click."""
    return ConceptFolder(folder).named_records()


def _patch(
    session: Session,
    folder: Path,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    category: str,
    number: int,
    place: int,
) -> None:
    lost = f"{record['effects'][number]:.2f} of its score {record['score']:.2f}"
    try:
        picture = picture_of(config, record["image"])
        patch = cropped(picture.load(), record, f"{number}", SIDE)
    except (ValueError, OSError) as error:
        st.caption(escaped(sentence(error)))
        return
    st.image(data_uri(patch, "JPEG", quality=90), width=SIDE, alt=f"concept {number} in {record['image']}")
    if st.button("Its map", key=f"concept-map-{place}", help=f"{escaped(record['image'])}: without it, {lost} is lost"):
        keep_settings(ConceptMap.name, {"concepts": str(folder.resolve()), "concept": number})
        st.session_state["next_methods"], st.session_state["next_shown"] = [ConceptMap.name], ConceptMap.name
        cases.send(session, picture, record["box"], category, model=str(config.get("model", "")))


def picture_of(config: Mapping[str, Any], name: str) -> Picture:
    """The picture of that name in a run with these options, those of its ``run.yaml``.

    Raises:
        ValueError: they do not say where pictures are.
    """
    if "scenes" in config:
        return scene_picture(name)
    if not isinstance(config.get("images"), str):
        raise ValueError(f"The run's options do not say where {name} is")
    path = Path(config["images"]) / name
    return Picture(name, str(path.resolve()), path)


def _bounds(mixtures: Sequence[Mapping[str, Any]]) -> None:
    st.markdown("**How they were found**: the bound over the iterations")
    for mixture in mixtures:
        bound = list(mixture["bound"])
        table = {"iteration": list(range(1, len(bound) + 1)), "bound": bound}
        st.line_chart(table, x="iteration", y="bound", height=180, y_label="bound")
        others = ", ".join(f"{value:.2f}" for value in mixture["stability"])
        levels = escaped(", ".join(mixture["levels"]))
        st.caption(
            f"{levels}: {mixture['n_concepts']} concepts of {mixture['n_cells']} places, in components that hold "
            f"{mixture['explained']:.0%} of the variance"
            + (f"; adjusted Rand index with other seeds {others}" if others else "")
        )
