"""The categories of a COCO file, and which of a detector's labels has the name of each."""

from __future__ import annotations

from collections.abc import Mapping

from detxai.detections import ClassNames, label_names
from detxai.formats.coco import Records


def category_names(categories: Records) -> dict[int, str]:
    """The ``categories`` of a COCO file as category id -> name.

    >>> category_names([{"id": 1, "name": "person", "supercategory": "person"}, {"id": 3, "name": "car"}])
    {1: 'person', 3: 'car'}
    """
    for category in categories:
        if not isinstance(category, Mapping) or not {"id", "name"} <= set(category):
            raise ValueError(f"categories must be dicts with 'id' and 'name', got {category!r}")
    return {int(category["id"]): str(category["name"]) for category in categories}


def match_categories(class_names: ClassNames, categories: Records) -> dict[int, int]:
    """Label -> category id, for ``label_to_category``, by equal names; labels without a category are left out.

    Names are equal that differ in case, spaces and underscores alone: see ``plain_name``.

    Raises:
        ValueError: several labels have the name of a category, or several categories that of a label.

    >>> match_categories(["person", "stop_sign"], [{"id": 1, "name": "Person"}, {"id": 13, "name": "stop sign"}])
    {0: 1, 1: 13}
    """
    by_name: dict[str, list[int]] = {}
    for label, name in label_names(class_names).items():
        by_name.setdefault(plain_name(name), []).append(label)
    matched: dict[int, int] = {}
    for category, name in category_names(categories).items():
        labels = by_name.get(plain_name(name), [])
        if len(labels) > 1:  # torchvision has several "N/A", which no category is called
            raise ValueError(f"class_names: the labels {labels} are all called {name!r}: spell out which is which")
        if labels and labels[0] in matched:
            raise ValueError(f"categories: {matched[labels[0]]} and {category} are both called {name!r}")
        if labels:
            matched[labels[0]] = category
    return dict(sorted(matched.items()))


def plain_name(name: str) -> str:
    """What must be equal for two tools to mean the same class.

    >>> plain_name("Traffic_Light "), plain_name("traffic  light")
    ('traffic light', 'traffic light')
    """
    return " ".join(name.replace("_", " ").casefold().split())
