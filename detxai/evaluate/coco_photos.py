"""The images of a COCO annotation file, and what is annotated in each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detxai.evaluate.samples import Photo, Pixels, Truth
from detxai.formats import category_names, from_coco, match_categories
from detxai.images import load_image, to_uint8
from detxai.metrics.case import Objects

SHOWN = 8  # class names that an error lists


def coco_photos(
    images: str | PathLike[str], annotations: str | PathLike[str], class_names: Mapping[int, str]
) -> list[Photo]:
    """The images that a COCO file lists, in its order.

    Categories become the detector's labels by equal names (``detxai.formats.match_categories``); by number where the
    file or the detector has no names. Crowds and categories that the detector does not know are left out. Masks are
    there where every object of an image has a segmentation.

    Args:
        images: the folder that the file's ``file_name`` entries start from.
        annotations: the file.
        class_names: the detector's, label -> name.

    Raises:
        FileNotFoundError: no such folder or file, or none of the images is in the folder.
        ValueError: the file is no COCO annotation file, or no category is a class of the detector.
    """
    folder, file = Path(images), Path(annotations)
    if not folder.is_dir():
        raise FileNotFoundError(f"images: no such folder: {folder}")
    content = _read(file)
    labels = labels_of_categories(class_names, content["categories"], file)
    of_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        if annotation["category_id"] in labels and not annotation.get("iscrowd", 0):
            of_image.setdefault(annotation["image_id"], []).append(annotation)
    photos = [
        Photo(
            str(image["file_name"]),
            partial(_load, folder / str(image["file_name"]), tuple(of_image.get(image["id"], ())), labels),
        )
        for image in content["images"]
    ]
    if photos and not any((folder / photo.name).exists() for photo in photos):
        raise FileNotFoundError(f"images: none of the {len(photos)} images that {file} lists is in {folder}")
    return photos


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
        theirs = _listed(category_names(categories).values())
    else:
        numbers = [int(category["id"]) for category in categories]
        matched = {number: number for number in numbers if not class_names or number in class_names}
        theirs = _listed(map(str, numbers))
    if not matched:
        ours = _listed(class_names.values() if named else map(str, class_names))
        raise ValueError(
            f"annotations: no category of {file} is a class of the detector: it has {theirs}; the detector has {ours}"
        )
    return matched


def _listed(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "") or "none"


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"annotations: no such file: {file}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"annotations: {file} is not JSON: {error}") from error
    needed = {"images": {"id", "file_name"}, "annotations": {"image_id", "category_id", "bbox"}, "categories": {"id"}}
    for part, entries in needed.items():
        listed = content.get(part) if isinstance(content, dict) else None
        if not isinstance(listed, list):
            raise ValueError(f"annotations: {file} is no COCO annotation file: it has no list of {part}")
        for record in listed:
            missing = sorted(entries - set(record)) if isinstance(record, dict) else sorted(entries)
            if missing:
                raise ValueError(
                    f"annotations: {file}: an entry of {part} has no {', '.join(missing)}: {record!r:.200}"
                )
    return content


def _load(path: Path, annotations: Sequence[dict[str, Any]], labels: Mapping[int, int]) -> tuple[Pixels, Truth]:
    image = to_uint8(load_image(path))
    found = from_coco(annotations, label_to_category={label: category for category, label in labels.items()})
    masks = _masks(annotations, image.shape[0], image.shape[1])
    return image, Truth(Objects(found.boxes, found.labels, masks))


def _masks(annotations: Sequence[dict[str, Any]], height: int, width: int) -> Tensor | None:
    from pycocotools import mask as rle

    if not annotations or not all(annotation.get("segmentation") for annotation in annotations):
        return None
    drawn = []
    for annotation in annotations:
        outline = annotation["segmentation"]
        if isinstance(outline, list):
            outline = rle.merge(rle.frPyObjects(outline, height, width))
        elif isinstance(outline["counts"], list):
            outline = rle.frPyObjects(outline, height, width)
        mask = rle.decode(outline)
        if mask.shape != (height, width):
            raise ValueError(
                f"annotation {annotation.get('id')}: segmentation must be of the image's {height} x {width} pixels, "
                f"got {mask.shape[0]} x {mask.shape[1]}"
            )
        drawn.append(mask.astype(bool))
    return torch.from_numpy(np.stack(drawn))
