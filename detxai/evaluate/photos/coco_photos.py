"""The images of a data set, and what is annotated in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from os.path import exists
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detxai.data.categories import labels_of_categories
from detxai.data.readers import AnnotatedImages
from detxai.data.readers.coco import read_coco
from detxai.data.segmentation import check_segmentation, draw_segmentation
from detxai.evaluate.photos.photo import Photo, Pixels, Truth
from detxai.formats import from_coco
from detxai.images import load_image, to_uint8
from detxai.metrics.inputs.case import Objects


def coco_photos(
    images: str | PathLike[str], annotations: str | PathLike[str], class_names: Mapping[int, str]
) -> list[Photo]:
    """The images that a COCO file lists, in its order: ``annotated_photos`` of that file.

    Args:
        images: the folder that the file's ``file_name`` entries start from.
        annotations: the file.
        class_names: the detector's, label -> name.
    """
    folder = Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"images: no such folder: {folder}")
    return annotated_photos(read_coco(Path(annotations), folder), class_names, annotations)


def annotated_photos(
    source: AnnotatedImages, class_names: Mapping[int, str], where: str | PathLike[str] = "the file"
) -> list[Photo]:
    """The images of a data set, in its order.

    Categories become the detector's labels by equal names (``detxai.formats.match_categories``); by number where the
    file or the detector has no names. Crowds and categories that the detector does not know are left out. Masks are
    there where every object of an image has a segmentation.

    Args:
        source: from ``detxai.data.readers.read_annotated_images``.
        class_names: the detector's, label -> name.
        where: the annotations are, for messages.

    Raises:
        FileNotFoundError: none of the images is in the folder.
        ValueError: a segmentation is none, or no category is a class of the detector; the message names the entry.
    """
    folder, content = source.images, source.content
    if not isinstance(folder, Path):
        raise ValueError(f"images must be on a disk of this machine, got the address {folder}; copy them")
    _check_segmentations(content, f"annotations: {where}")
    labels = labels_of_categories(class_names, content["categories"], where) if source.annotated else {}
    of_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        if annotation["category_id"] in labels and not annotation.get("iscrowd", 0):
            of_image.setdefault(annotation["image_id"], []).append(annotation)
    photos = [
        Photo(
            image["file_name"],
            partial(_load, folder / image["file_name"], tuple(of_image.get(image["id"], ())), labels),
        )
        for image in content["images"]
    ]
    if photos and not any(exists(folder / photo.name) for photo in photos):
        raise FileNotFoundError(f"images: none of the {len(photos)} images that {where} lists is in {folder}")
    return photos


def _check_segmentations(content: Mapping[str, Any], where: str) -> None:
    for place, annotation in enumerate(content["annotations"]):
        if annotation.get("segmentation"):
            check_segmentation(annotation["segmentation"], f"{where}: annotations[{place}]")


def _load(path: Path, annotations: Sequence[dict[str, Any]], labels: Mapping[int, int]) -> tuple[Pixels, Truth]:
    image = to_uint8(load_image(path))
    objects = [{name: one[name] for name in ("image_id", "category_id", "bbox")} for one in annotations]
    found = from_coco(objects, label_to_category={label: category for category, label in labels.items()})
    masks = _masks(annotations, image.shape[0], image.shape[1])
    return image, Truth(Objects(found.boxes, found.labels, masks))


def _masks(annotations: Sequence[dict[str, Any]], height: int, width: int) -> Tensor | None:
    if not annotations or not all(annotation.get("segmentation") for annotation in annotations):
        return None
    drawn = [
        draw_segmentation(annotation["segmentation"], (height, width), f"annotation {annotation.get('id')}")
        for annotation in annotations
    ]
    return torch.from_numpy(np.stack(drawn))
