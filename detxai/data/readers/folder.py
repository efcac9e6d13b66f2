"""A folder of images without annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detxai.data.error_kinds import UNANNOTATED
from detxai.data.given_paths import expect_folder
from detxai.data.image_files import ImageFolder
from detxai.data.readers.annotated_images import (
    AnnotatedImages,
    CocoContent,
    expect_images,
    image_names,
    image_names_at,
)
from detxai.runs.remote.address import Address


def read_image_folder(path: Path, images: Path | None = None, split: str | None = None) -> AnnotatedImages:
    """Every image in a folder and the folders in it, sorted by name; see ``read_annotated_images``.

    Raises:
        ValueError: there is none, or ``images`` is another folder.
    """
    expect_folder(path, "annotations")
    if images is not None and images.resolve() != path.resolve():
        raise ValueError(f"images must be left out, or be the folder of images itself, {path}; got {images}")
    return _unannotated(image_names(path, path), path)


def read_images_at(address: Address) -> AnnotatedImages:
    """The same of a folder at an address.

    Raises:
        ValueError: there is no image.
        ImportError: what reads such addresses is not installed.
    """
    return _unannotated(image_names_at(address), address)


def _unannotated(names: Sequence[str], folder: ImageFolder) -> AnnotatedImages:
    expect_images(names, f"annotations: {folder}")
    content = CocoContent({})
    for name in names:
        content.add_image(name, None)
    return AnnotatedImages({**content.record(), UNANNOTATED: True}, folder, "images")
