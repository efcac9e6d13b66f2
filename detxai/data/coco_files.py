"""COCO annotations and results from files: checked before any work, with one clear message for each fault."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

from detxai.data.given_paths import expect_file
from detxai.messages import short_repr

log = logging.getLogger(__name__)

LARGEST_ID = 2**53  # COCOeval keeps matches as float64, which holds whole numbers exactly up to here
Record = Mapping[str, Any]


def read_annotations(path: str | PathLike[str]) -> Any:
    """A COCO annotation file as a ``pycocotools.coco.COCO``.

    Where an annotation has no ``area`` or ``iscrowd``, its box's area and 0 are taken. An annotation id of 0 becomes
    the first free one, because COCOeval takes 0 for "no match".

    Args:
        path: a JSON file with ``images``, ``annotations`` and ``categories``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not JSON, or no COCO annotation file; the message names the entry.
    """
    return as_annotations(read_json(path, "annotations"), f"annotations: {path}")


def read_predictions(path: str | PathLike[str], annotations: Any) -> Any:
    """A COCO results file as a ``pycocotools.coco.COCO``, as ``annotations.loadRes`` would give it.

    Args:
        path: a JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``.
        annotations: what it is about, from ``read_annotations``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not JSON, no results file, or about other images or categories than the annotations.
    """
    return as_predictions(read_json(path, "predictions"), annotations, f"predictions: {path}")


def as_annotations(content: Any, where: str = "annotations") -> Any:
    """The content of an annotation file as a ``COCO``; see ``read_annotations``."""
    check_annotations(content, where)
    rows = [_completed(record) for record in content["annotations"]]
    return indexed({**content, "annotations": _without_id_zero(rows)})


def check_annotations(content: Any, where: str = "annotations", *, ids: bool = True, names: bool = True) -> None:
    """Raise where the content of a file is not that of a COCO annotation file.

    Args:
        content: what JSON gave.
        where: how messages begin.
        ids: every annotation must have an id of its own.
        names: every category must have a name of its own.

    Raises:
        ValueError: the message names the entry.
    """
    if not isinstance(content, dict):
        hint = "; is it a predictions file?" if isinstance(content, list) else ""
        raise ValueError(f"{where} must be a JSON object, got {_kind(content)}{hint}")
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            raise ValueError(f"{where} must have the list {part!r}, got {_kind(content.get(part))}")
    named = names or all(isinstance(one, dict) and "name" in one for one in content["categories"])
    images = _distinct_ids(content["images"], f"{where}: images", _check_image)
    categories = _distinct_ids(content["categories"], f"{where}: categories", _check_category if named else _unchecked)
    if named:
        _refuse_equal_names(content["categories"], where)
    if ids:
        _distinct_ids(content["annotations"], f"{where}: annotations", _unchecked)
    for place, record in enumerate(content["annotations"]):
        _check_box_record(record, f"{where}: annotations[{place}]")
        _check_counted(record, f"{where}: annotations[{place}]")
    _check_known(content["annotations"], f"{where}: annotations", images, categories)


def as_predictions(records: Any, annotations: Any, where: str = "predictions") -> Any:
    """COCO results, as a list, as a ``COCO`` whose ids count the list from 1; see ``read_predictions``."""
    if not isinstance(records, list):
        hint = "; is it an annotation file?" if isinstance(records, dict) and "annotations" in records else ""
        raise ValueError(f"{where} must be a JSON list of results, got {_kind(records)}{hint}")
    for place, record in enumerate(records):
        name = f"{where}: [{place}]"
        _check_box_record(record, name)
        if not _is_number(record.get("score")):
            raise ValueError(f"{name} must have a finite 'score', got {short_repr(record.get('score'))}")
    _check_known(records, f"{where}: ", set(annotations.imgs), set(annotations.cats))
    rows = []
    for place, record in enumerate(records):
        box = [float(side) for side in record["bbox"]]
        known = {name: record[name] for name in ("image_id", "category_id", "score")}
        rows.append({**known, "bbox": box, "id": place + 1, "area": box[2] * box[3], "iscrowd": 0})
    about = {name: annotations.dataset[name] for name in ("images", "categories")}
    return indexed({**about, "annotations": rows})


def indexed(dataset: dict[str, Any]) -> Any:
    """A ``pycocotools.coco.COCO`` of this content, without what pycocotools prints.

    Raises:
        ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise ImportError("detxai.coco needs pycocotools: python -m pip install pycocotools") from error
    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco


def read_json(path: str | PathLike[str], name: str) -> Any:
    """The content of a JSON file; ``name`` is the argument that gave its path.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is a folder, or no JSON.
    """
    path = Path(path)
    expect_file(path, name)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # bad UTF-8 and numbers of thousands of digits are ValueErrors too
        raise ValueError(f"{name}: {path} is not JSON, or cut off: {error}") from error


def _distinct_ids(records: Sequence[Any], where: str, check: Callable[[Record, str], None]) -> set[int]:
    """The ids of the records, each checked."""
    counts: Counter[int] = Counter()
    for place, record in enumerate(records):
        name = f"{where}[{place}]"
        _expect_mapping(record, name)
        if not _is_id(record.get("id")):
            raise ValueError(f"{name} must have a whole number below 2**53 as 'id', got {short_repr(record.get('id'))}")
        check(record, name)
        counts[record["id"]] += 1
    repeated = [number for number, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"{where} must have different ids, got {_few(repeated)} more than once")
    return set(counts)


def _check_image(record: Record, name: str) -> None:
    if not _is_text(record.get("file_name")):
        raise ValueError(f"{name} must have a 'file_name', got {short_repr(record.get('file_name'))}")
    for side in ("height", "width"):
        if side in record and not (_is_id(record[side]) and record[side] > 0):
            raise ValueError(f"{name}: {side!r} must be a whole number of pixels, got {short_repr(record[side])}")


def _check_category(record: Record, name: str) -> None:
    if not _is_text(record.get("name")):
        raise ValueError(f"{name} must have a 'name', got {short_repr(record.get('name'))}")


def _check_box_record(record: Any, name: str) -> None:
    _expect_mapping(record, name)
    for entry in ("image_id", "category_id"):
        if not _is_id(record.get(entry)):
            raise ValueError(f"{name} must have a whole number as {entry!r}, got {short_repr(record.get(entry))}")
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise ValueError(f"{name} must have 'bbox' [x, y, width, height], four finite numbers, got {short_repr(box)}")
    if min(box[2:]) < 0:
        raise ValueError(f"{name}: 'bbox' must have a width and height of 0 or more, got {short_repr(box)}")


def _check_counted(record: Record, name: str) -> None:
    area, crowd = record.get("area", 0), record.get("iscrowd", 0)
    if not _is_number(area) or area < 0:
        raise ValueError(f"{name}: 'area' must be a finite number of pixels, got {short_repr(area)}")
    if crowd not in (0, 1):  # True and False are 1 and 0
        raise ValueError(f"{name}: 'iscrowd' must be 0 or 1, got {short_repr(crowd)}")


def _completed(record: Record) -> dict[str, Any]:
    """An annotation with the entries that COCOeval reads."""
    area = record.get("area", record["bbox"][2] * record["bbox"][3])
    return {**record, "area": area, "iscrowd": int(record.get("iscrowd", 0))}


def _unchecked(record: Record, name: str) -> None:
    """Check nothing."""


def _without_id_zero(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    zero = next((record for record in annotations if record["id"] == 0), None)
    if zero is not None:
        zero["id"] = max(0, *(record["id"] for record in annotations)) + 1
        log.warning("annotation id 0 is counted as %d here: COCOeval takes 0 for no match", zero["id"])
    return annotations


def _refuse_equal_names(categories: Sequence[Record], where: str) -> None:
    counts = Counter(category["name"] for category in categories)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: categories must have different names, got {_few(repeated)} more than once")


def _check_known(records: Sequence[Record], where: str, images: Collection[int], categories: Collection[int]) -> None:
    for entry, known, what in (("image_id", images, "images"), ("category_id", categories, "categories")):
        strange = sorted({record[entry] for record in records} - set(known))
        if strange:
            count = sum(record[entry] in strange for record in records) if len(strange) < 100 else "many"
            raise ValueError(
                f"{where.rstrip(': ')}: {entry} must be one of the {len(known)} {what} of the annotation file, "
                f"got {_few(strange)} ({count} entries)"
            )


def _expect_mapping(record: Any, name: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{name} must be a JSON object, got {_kind(record)}")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -LARGEST_ID < value < LARGEST_ID


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value) and abs(value) < 1e15  # beyond this, areas and sums lose their digits
    except OverflowError:
        return False


def _is_text(value: Any) -> bool:
    """Text that can be printed and written; JSON may hold half of a sign that takes two (a lone surrogate)."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    return value.encode("utf-8", "ignore").decode() == value


def _few(values: Sequence[Any]) -> str:
    shown = ", ".join(short_repr(value) for value in values[:8])
    return shown if len(values) <= 8 else f"{shown}, ... ({len(values)} in all)"


def _kind(value: Any) -> str:
    names = {dict: "a JSON object", list: "a JSON list", str: "a text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), f"the number {short_repr(value)}")
