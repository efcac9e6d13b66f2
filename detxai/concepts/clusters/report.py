"""The page of a detector from the records: crops of the images it names, read again one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from detxai.evaluate.photos.photo import Photo
from detxai.pages.concepts_page import BoxFigure, ClassSection, ConceptRow, ConceptsReport, concepts_page
from detxai.pages.pictures import data_uri, outline
from detxai.runs.files import write_text

N_CONCEPTS, N_PATCHES = 4, 10  # shown of each class, and of each of its concepts
SIDE = 76  # pixels of a patch on the page
PATCH = 0.5  # side of a patch, as a share of the box's longer side
LEAST_PATCH = 24  # pixels of the image
BOX_MARGIN = 0.5  # around a box that is shown, as a share of its longer side


def write_page(
    path: Path, summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], photos: Sequence[Photo]
) -> None:
    """Write the page.

    Args:
        path: the file.
        summary: of the run.
        records: of its boxes; places in ``summary`` are places in them.
        photos: that they are of.

    Raises:
        WriteError: it cannot be written.
    """
    strips = {
        (place, entry["number"]): strongest_boxes(records, of_class["label"], entry["number"])
        for place, of_class in enumerate(summary["classes"])
        for entry in of_class["concepts"][:N_CONCEPTS]
    }
    wanted = {(record, f"{number}") for (_, number), places in strips.items() for record in places}
    wanted |= {(r, "box") for of_class in summary["classes"] for r in (*of_class["typical"], *of_class["odd"])}
    pictures = _pictures(wanted, records, photos)
    sections = [_section(place, summary, records, strips, pictures) for place in range(len(summary["classes"]))]
    used = list(dict.fromkeys(e["number"] for c in summary["classes"] for e in c["concepts"][:2]))
    matrix = [[_effect_of(of_class, number) for number in used] for of_class in summary["classes"]]
    report = ConceptsReport(
        model=str(summary["model"]),
        n_boxes=summary["n_boxes"],
        n_images=len({record["image"] for record in records}),
        removal=summary["request"]["search"]["removal"],
        mixtures=summary["mixtures"],
        sections=sections,
        concepts=used,
        matrix=matrix,
        removal_matrix=summary["removal"],
    )
    write_text(path, concepts_page(report))


def strongest_boxes(records: Sequence[Mapping[str, Any]], label: int, number: int) -> list[int]:
    """The boxes of a class that lose most without the concept, of those that lose anything."""
    mine = [place for place, r in enumerate(records) if r["label"] == label and r["effects"][number] > 0]
    return sorted(mine, key=lambda place: -records[place]["effects"][number])[:N_PATCHES]


def _effect_of(of_class: Mapping[str, Any], number: int) -> float:
    return next(float(entry["effect"]["mean"]) for entry in of_class["concepts"] if entry["number"] == number)


def _section(
    place: int,
    summary: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    strips: Mapping[tuple[int, int], Sequence[int]],
    pictures: Mapping[tuple[int, str], str],
) -> ClassSection:
    of_class = summary["classes"][place]
    rows = [
        ConceptRow(
            number=entry["number"],
            effect=_interval(entry["effect"]),
            prevalence=entry["prevalence"],
            evidence=f"{entry['evidence_mass']:.2f}, chance {entry['evidence_chance']:.3f}"
            if "evidence_mass" in entry
            else "",
            patches=[pictures[one, f"{entry['number']}"] for one in strips[place, entry["number"]]],
        )
        for entry in of_class["concepts"][:N_CONCEPTS]
    ]
    boxes = {
        name: [
            BoxFigure(pictures[one, "box"], f"{records[one]['image']}, score {records[one]['score']:.2f}")
            for one in of_class[name]
        ]
        for name in ("typical", "odd")
    }
    return ClassSection(
        of_class["name"], of_class["n_boxes"], of_class["n_images"], _interval(of_class["context"]), rows, **boxes,
        kept_channels=of_class["kept_channels"],
    )  # fmt: skip


def _interval(interval: Mapping[str, float | None]) -> str:
    ends = "" if interval["low"] is None else f" [{interval['low']:.2f}, {interval['high']:.2f}]"
    return f"{interval['mean']:.2f}{ends}"


def _pictures(
    wanted: set[tuple[int, str]], records: Sequence[Mapping[str, Any]], photos: Sequence[Photo]
) -> dict[tuple[int, str], str]:
    """Crops as data URIs, each image read once."""
    of_photo: dict[int, list[tuple[int, str]]] = {}
    for record, what in sorted(wanted):
        of_photo.setdefault(records[record]["photo"], []).append((record, what))
    made = {}
    for number, entries in of_photo.items():
        image, _ = photos[number].load()
        for record, what in entries:
            made[record, what] = data_uri(crop(image, records[record], what), quality=70)
    return made


def crop(image: npt.NDArray[np.uint8], record: Mapping[str, Any], what: str, side: int = SIDE) -> PIL.Image.Image:
    """A square of an image (H, W, 3), ``side`` pixels wide.

    Args:
        image: that the record is of.
        record: of one of its boxes: see ``box_records``.
        what: ``"box"``: the box with its surroundings; the number of a concept: where that is strongest.
        side: of the picture.
    """
    x1, y1, x2, y2 = record["box"]
    longer = max(x2 - x1, y2 - y1, 1)
    if what == "box":
        x, y, half = (x1 + x2) / 2, (y1 + y2) / 2, longer * (0.5 + BOX_MARGIN)
    else:
        (x, y), half = record["peaks"][int(what)], max(PATCH * longer, LEAST_PATCH) / 2
    scale = side / (2 * half)
    corner = (x - half, y - half)
    cut = PIL.Image.fromarray(image).transform(
        (side, side), PIL.Image.Transform.AFFINE, (1 / scale, 0, corner[0], 0, 1 / scale, corner[1]),
        PIL.Image.Resampling.BILINEAR,
    )  # fmt: skip
    if what == "box":
        outline(cut, [x1 - corner[0], y1 - corner[1], x2 - corner[0], y2 - corner[1]], scale=scale)
    return cut
