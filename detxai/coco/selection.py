"""Which of all the boxes are explained."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

from detxai.data.error_kinds import ERRORS, KINDS, LabelledBox
from detxai.messages import did_you_mean


@dataclass(frozen=True)
class Selection:
    """Which boxes are explained; each setting narrows the choice, ``worst`` and ``max_images`` come last.

    Args:
        kinds: of ``detxai.data.error_kinds.KINDS``; default: the mistakes.
        classes: names of categories; None: all.
        image_ids: None: all.
        min_area: in square pixels, as COCO counts areas: ``32 ** 2`` and ``96 ** 2`` part small, medium and large.
        max_area: in square pixels.
        min_score: of predictions, where fewer are wanted than lie at the operating point and above it
            (``Options.operating_point``); a missed annotation has no score, and stays.
        max_score: of predictions.
        worst: only so many, those that cost most AP; ties go to higher scores, then larger areas.
        max_images: only boxes of the first so many images that have any.
    """

    kinds: Sequence[str] = ERRORS
    classes: Sequence[str] | None = None
    image_ids: Sequence[int] | None = None
    min_area: float = 0.0
    max_area: float = math.inf
    min_score: float = 0.0
    max_score: float = math.inf
    worst: int | None = None
    max_images: int | None = None

    def __post_init__(self) -> None:
        for name in ("kinds", "classes", "image_ids"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise TypeError(f"{name} must be a list, got the text {given!r}")
            if given is not None:
                object.__setattr__(self, name, tuple(given))
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            got = ", ".join(map(str, unknown)) or "none"
            hint = did_you_mean(str(unknown[0]), KINDS) if unknown else ""
            raise ValueError(f"kinds must be some of {', '.join(KINDS)}; got {got}{hint}")
        for name in ("area", "score"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if not low <= high:  # also where one is NaN
                raise ValueError(f"min_{name} must not exceed max_{name}, got {low} and {high}")
        for name in ("worst", "max_images"):
            given = getattr(self, name)
            if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
                raise ValueError(f"{name} must be a whole number from 1, or None, got {given!r}")

    def record(self) -> dict[str, object]:
        """The settings as JSON can hold them: no infinity."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: None if value == math.inf else value for name, value in given.items()}


def check_selection(selection: Selection, category_names: Mapping[int, str], image_ids: Collection[int]) -> None:
    """Raise ``ValueError`` where the selection names a category or an image that is not annotated."""
    known = set(category_names.values())
    unknown = [name for name in selection.classes or () if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ValueError(f"classes must be some of {', '.join(sorted(known))}; got {', '.join(unknown)}{hint}")
    strange = [number for number in selection.image_ids or () if number not in image_ids]
    if strange:
        raise ValueError(
            f"image_ids must be ids of the {len(image_ids)} annotated images, got {', '.join(map(str, strange))}"
        )


def select(boxes: Sequence[LabelledBox], selection: Selection) -> list[LabelledBox]:
    """The chosen boxes, image by image, in the order in which they came."""
    wanted = [box for box in boxes if _wanted(box, selection)]
    if selection.worst is not None:
        ranked = sorted(wanted, key=lambda box: (-(box.ap_loss or 0), -(box.score or 0), -box.area))
        worst = {id(box) for box in ranked[: selection.worst]}
        wanted = [box for box in wanted if id(box) in worst]
    if selection.max_images is not None:
        images = list(dict.fromkeys(box.image_id for box in wanted))[: selection.max_images]
        wanted = [box for box in wanted if box.image_id in set(images)]
    return wanted


def _wanted(box: LabelledBox, selection: Selection) -> bool:
    return (
        box.kind in selection.kinds
        and (selection.classes is None or box.category in selection.classes)
        and (selection.image_ids is None or box.image_id in selection.image_ids)
        and selection.min_area <= box.area <= selection.max_area
        and (box.score is None or selection.min_score <= box.score <= selection.max_score)
    )
