"""Which of the detector's labels is which category of the annotation file: resolved once, checked and logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detxai.adapters.detector import Detector
from detxai.formats import category_names, match_categories, plain_name

log = logging.getLogger(__name__)

BY_NAME, BY_ID = "by-name", "by-id"
SHOWN = 8  # class names that an error lists


def label_to_category(
    detector: Detector, annotations: Any, labels: str | PathLike[str] | Mapping[Any, Any] | None = None
) -> dict[int, int]:
    """Label -> category id.

    Args:
        detector: the detector.
        annotations: a ``COCO``; every category that has annotations must get a label, unless ``labels`` spells the
            pairs out.
        labels: ``"by-name"``: equal class names, by ``detxai.formats.match_categories``; ``"by-id"``: labels *are*
            category ids, as in torchvision's 91-class models; a mapping, or a JSON file of one, from label or class
            name to category id or name, which leaves out whatever it does not name. None: by name where the detector
            has names, else by id.

    Raises:
        ValueError: names or ids do not agree; the message lists both sides.
        FileNotFoundError: no such file.
    """
    names = category_names(annotations.dataset["categories"])
    needed = {annotation["category_id"] for annotation in annotations.anns.values()}
    known = names_of_labels(detector)
    if isinstance(labels, Mapping):
        return _logged(_spelled_out(labels, known, names), known, names)
    chosen = (BY_NAME if detector.class_names else BY_ID) if labels is None else str(labels)
    if chosen not in (BY_NAME, BY_ID):
        return _logged(_spelled_out(_read_pairs(Path(chosen)), known, names), known, names)
    pairs = {label: label for label in known if label in names} if chosen == BY_ID else _by_name(known, annotations)
    missing = sorted(needed - set(pairs.values()))
    if missing:
        raise ValueError(_mismatch(chosen, missing, pairs, known, names))
    return _logged(pairs, known, names)


def names_of_labels(detector: Detector) -> Mapping[int, str]:
    """Label -> class name; its number where the detector has no names."""
    return detector.class_names or {label: str(label) for label in _labels_seen(detector)}


def labels_of_categories(
    class_names: Mapping[int, str], categories: Sequence[Mapping[str, Any]], file: object = "the file"
) -> dict[int, int]:
    """Category id -> the detector's label: by equal names, by number where either side has no names.

    Raises:
        ValueError: not one of them fits.

    >>> labels_of_categories({0: "person", 1: "car"}, [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}])
    {1: 0, 3: 1}
    """
    named = all("name" in category for category in categories)
    if class_names and named:
        matched = {category: label for label, category in match_categories(class_names, categories).items()}
        theirs = _names_listed(category_names(categories).values())
    else:
        numbers = [int(category["id"]) for category in categories]
        matched = {number: number for number in numbers if not class_names or number in class_names}
        theirs = _names_listed(map(str, numbers))
    if not matched:
        ours = _names_listed(class_names.values() if named else map(str, class_names))
        raise ValueError(
            f"annotations: no category of {file} is a class of the detector: it has {theirs}; the detector has {ours}"
        )
    return matched


def _labels_seen(detector: Detector) -> list[int]:
    """The labels of a detector without class names: those of its candidates for a small black image."""
    with torch.no_grad():
        labels = detector.candidates(np.zeros((64, 64, 3), dtype=np.uint8)).labels
    return [int(label) for label in labels]


def _by_name(known: Mapping[int, str], annotations: Any) -> dict[int, int]:
    try:
        return match_categories(known, annotations.dataset["categories"])
    except ValueError as error:
        raise ValueError(f"labels: {error}; give --labels FILE") from error


def _read_pairs(path: Path) -> Mapping[Any, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"labels must be {BY_NAME}, {BY_ID} or a JSON file; no such file: {path}")
    try:
        pairs = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"labels: {path} is not JSON: {error}") from error
    if not isinstance(pairs, dict) or not pairs:
        raise ValueError(f"labels: {path} must map labels or class names to category ids or names")
    return pairs


def _spelled_out(pairs: Mapping[Any, Any], known: Mapping[int, str], names: Mapping[int, str]) -> dict[int, int]:
    resolved = {
        _number(label, known, "label or class name of the detector"): _number(category, names, "category id or name")
        for label, category in pairs.items()
    }
    if len(resolved) < len(pairs) or len(set(resolved.values())) < len(resolved):
        raise ValueError(f"labels must pair every label with a different category, got {dict(pairs)}")
    return resolved


def _number(value: Any, names: Mapping[int, str], what: str) -> int:
    for number, name in names.items():
        if value == name or str(value) == str(number):
            return number
    raise ValueError(f"labels: {value!r} is not a {what}; there are {_listed(names, names)}")


def _mismatch(
    how: str, missing: Sequence[int], pairs: Mapping[int, int], known: Mapping[int, str], names: Mapping[int, str]
) -> str:
    free = [label for label in known if label not in pairs]
    return (
        f"labels: {len(missing)} annotated categories have no label of the detector ({how}): "
        f"{_listed(names, missing)}; the detector's labels without a category: {_listed(known, free)}. "
        "Give --labels by-name, by-id, or a JSON file that maps labels to categories"
    )


def _listed(names: Mapping[int, str], which: Collection[int], most: int = 100) -> str:
    shown = ", ".join(f"{number} {names[number]}" for number in list(which)[:most])
    return (shown or "none") + (", ..." if len(which) > most else "")


def _logged(pairs: dict[int, int], known: Mapping[int, str], names: Mapping[int, str]) -> dict[int, int]:
    """The pairs, after a line in the log about what is left out."""
    without_label = [category for category in names if category not in pairs.values()]
    without_category = [label for label in known if label not in pairs]
    log.info("%d labels have a category", len(pairs))
    if without_label:
        log.warning("categories without a label, left out of the explanations: %s", _listed(names, without_label))
    if without_category:
        log.info("labels without a category, never counted: %s", _listed(known, without_category))
    different = [label for label, category in pairs.items() if plain_name(known[label]) != plain_name(names[category])]
    if different and any(not known[label].isdigit() for label in different):
        shown = ", ".join(f"{label} {known[label]} = {pairs[label]} {names[pairs[label]]}" for label in different[:8])
        log.warning("labels and categories are paired although their names differ: %s", shown)
    return pairs


def _names_listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "") or "none"
