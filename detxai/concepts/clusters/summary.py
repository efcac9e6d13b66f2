"""What the records of all boxes say of each class: its concepts by effect, and the boxes that are typical and odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.evaluate.results.statistics import Interval, Resamples

PRESENT = 0.5  # membership of a pixel in the box from which a concept counts as present in it
SHOWN = 6  # boxes of a class that are shown as typical, and as odd
Floats = npt.NDArray[np.float64]


def summarised(records: Sequence[Mapping[str, Any]], class_names: Mapping[int, str], seed: int) -> dict[str, Any]:
    """``classes``, ``removal`` and ``boxes`` of the records, as JSON can hold it.

    ``classes``: for each class with boxes, in the order of the labels, ``name``, ``n_boxes``, ``n_images``,
    ``context`` (mean share of the score lost without the surroundings, with a 95 % interval), ``concepts`` (every
    concept, by falling mean effect: ``number``, ``effect`` and its interval, ``prevalence``, and ``evidence_mass`` and
    ``evidence_chance`` where they are known), ``typical`` and ``odd``: places of records. ``removal``: for the top
    concept of each class (rows), the mean effect of its removal on the boxes of each class (columns).

    Args:
        records: of ``box_records``, each with ``image`` added.
        class_names: label -> name.
        seed: of the bootstrap.
    """
    labels = sorted({record["label"] for record in records})
    of_label = {label: [place for place, r in enumerate(records) if r["label"] == label] for label in labels}
    effects = np.array([record["effects"] for record in records], dtype=np.float64)
    classes = [_of_class(records, of_label[label], class_names.get(label, str(label)), label, seed) for label in labels]
    tops = [of_class["concepts"][0]["number"] for of_class in classes]
    removal = [[float(effects[of_label[label], top].mean()) for label in labels] for top in tops]
    return {"n_boxes": len(records), "classes": classes, "removal": removal}


def _of_class(
    records: Sequence[Mapping[str, Any]], places: Sequence[int], name: str, label: int, seed: int
) -> dict[str, Any]:
    mine = [records[place] for place in places]
    draws = Resamples.for_images([record["image"] for record in mine], seed=seed)
    effects = np.array([record["effects"] for record in mine], dtype=np.float64)
    present = np.array([record["present"] for record in mine]) >= PRESENT
    concepts = []
    for number in np.argsort(-effects.mean(0), kind="stable").tolist():
        entry = {"number": number, "effect": _as_json(draws.mean(effects[:, number]))}
        entry["prevalence"] = float(present[:, number].mean())
        known = [record for record in mine if "evidence_mass" in record]
        if known:
            entry["evidence_mass"] = float(np.mean([record["evidence_mass"][number] for record in known]))
            entry["evidence_chance"] = float(np.mean([record["evidence_chance"] for record in known]))
        concepts.append(entry)
    order = np.argsort(_distances(effects), kind="stable")
    return {
        "name": name,
        "label": label,
        "n_boxes": len(mine),
        "n_images": len({record["image"] for record in mine}),
        "context": _as_json(draws.mean([record["context"] for record in mine])),
        "concepts": concepts,
        "typical": [places[place] for place in order[:SHOWN].tolist()],
        "odd": [places[place] for place in order[::-1][: min(SHOWN, len(mine) - SHOWN)].tolist()]
        if len(mine) > SHOWN
        else [],
    }


def _distances(effects: Floats) -> Floats:
    """(n,): how far each box's effects lie from the median of its class."""
    distances: Floats = np.linalg.norm(effects - np.median(effects, 0), axis=1)
    return distances


def _as_json(interval: Interval) -> dict[str, float | None]:
    """NaN is no JSON: an interval's ends are None where there are too few images for one."""
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {name: None if np.isnan(value) else float(value) for name, value in ends.items()}
