"""COCO annotation files; the federated ones of LVIS are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detxai.data.coco_files import check_annotations, read_json
from detxai.data.given_paths import expect_folder
from detxai.data.image_files import ImageFolder
from detxai.data.readers.annotated_images import AnnotatedImages

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


def read_coco(path: Path, images: ImageFolder | None, split: str | None = None) -> AnnotatedImages:
    """A COCO annotation file; see ``read_annotated_images``.

    Raises:
        ValueError: it is not JSON, no COCO annotation file, or one of LVIS.
    """
    content = read_json(path, "annotations")
    where = f"annotations: {path}"
    refuse_federated(content, where)
    check_annotations(content, where, ids=False, names=False)
    if images is None:
        raise ValueError("images must be given: a COCO file does not say which folder its images are in")
    if isinstance(images, Path):
        expect_folder(images, "images")
    return AnnotatedImages(content, images, "coco")


def refuse_federated(content: Any, where: str) -> None:
    """Raise where annotations are federated, as LVIS's are.

    In them a class is judged in some images alone. Its own evaluation counts no prediction of a class that an image
    names neither as there nor in ``neg_category_ids``, and none that finds nothing of a class in
    ``not_exhaustive_category_ids``. COCOeval would count both as false positives.
    """
    images = content.get("images") if isinstance(content, dict) else None
    for place, image in enumerate(images if isinstance(images, list) else ()):
        named = [name for name in FEDERATED if isinstance(image, dict) and name in image]
        if named:
            raise ValueError(
                f"{where}: images[{place}] has {' and '.join(named)}: these are federated annotations (LVIS), in which "
                "most classes were not judged in most images, so that COCOeval would count right predictions as false "
                "positives; evaluate them with the lvis package, or keep the images and classes that were judged and "
                "drop these fields"
            )
