"""What every reader gives, and what they share: categories, image records, annotation records."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from detxai.data.error_kinds import UNANNOTATED
from detxai.data.given_paths import expect_file
from detxai.data.image_files import ImageFolder
from detxai.images import upright_size
from detxai.messages import short_repr
from detxai.runs.remote.address import Address

log = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # of images in a folder; case is ignored
NAMED = 10  # files that a warning names
Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class AnnotatedImages:
    """The images of a data set and what is annotated in them, wherever that was kept.

    Attributes:
        content: ``images``, ``annotations`` and ``categories``, as in a COCO annotation file; ``bbox`` is x, y, width
            and height in pixels of the upright image.
        images: the folder that each ``file_name`` is in, or its address.
        format: the name of the reader.
    """

    content: dict[str, Any]
    images: ImageFolder
    format: str

    @property
    def annotated(self) -> bool:
        """False for a folder of images that nobody annotated; then there are no categories either."""
        return not self.content.get(UNANNOTATED, False)

    def with_categories(self, class_names: Mapping[int, str]) -> AnnotatedImages:
        """The same; where nothing is annotated, with the detector's classes as the categories.

        Args:
            class_names: label -> name. A name that several labels have (torchvision's ``N/A``) is of no category.
        """
        if self.annotated:
            return self
        counts = Counter(class_names.values())
        categories = [{"id": label, "name": name} for label, name in class_names.items() if counts[name] == 1]
        return AnnotatedImages({**self.content, "categories": categories}, self.images, self.format)


class CocoContent:
    """The content of a COCO annotation file, built image by image.

    Args:
        categories: id -> name.
    """

    def __init__(self, categories: Mapping[int, str]) -> None:
        self.categories = dict(categories)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._unreadable: list[str] = []

    def add_image(self, file_name: str, size: Size | None, image_id: int | None = None) -> int:
        """Add an image, and give its id: by default the next from 1."""
        number = len(self.images) + 1 if image_id is None else image_id
        sides = {} if size is None else {"height": size[0], "width": size[1]}
        self.images.append({"id": number, "file_name": file_name, **sides})
        return number

    def add_image_file(self, file_name: str, folder: Path) -> tuple[int, Size | None]:
        """Add an image with the size that its file says; None where the file cannot be read.

        A long run records such an image as a failure and leaves it out of every figure, so one of them does not stop
        the reader either.
        """
        try:
            size = upright_size(folder / file_name)
        except (OSError, ValueError) as error:
            self._unreadable.append(f"{file_name} ({error})")
            return self.add_image(file_name, None), None
        return self.add_image(file_name, size), size

    def add_annotation(self, image_id: int, category_id: int, bbox: Sequence[float], **more: Any) -> None:
        """Add an annotation; ``bbox`` is x, y, width, height in pixels."""
        box = [float(side) for side in bbox]
        record = {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": category_id, "bbox": box}
        self.annotations.append({**record, "area": box[2] * box[3], "iscrowd": 0, **more})

    def record(self) -> dict[str, Any]:
        """As JSON would hold it."""
        if self._unreadable:
            shown = "; ".join(self._unreadable[:NAMED]) + ("; ..." if len(self._unreadable) > NAMED else "")
            log.warning("%d images cannot be read: their annotations are left out: %s", len(self._unreadable), shown)
        categories = [{"id": number, "name": name} for number, name in self.categories.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def image_names(folder: Path, below: Path) -> list[str]:
    """The images in ``folder`` and the folders in it, as paths relative to ``below``, sorted; hidden files are none."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(_shown(path.relative_to(below).as_posix() for path in found))


def image_names_at(address: Address) -> list[str]:
    """The same of a folder at an address."""
    return sorted(_shown(name for name in address.files_below() if name.lower().endswith(SUFFIXES)))


def _shown(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if not any(part.startswith(".") for part in name.split("/")))


def expect_images(names: Iterable[str], where: str) -> None:
    """Raise ``ValueError`` where there are none."""
    if not any(True for _ in names):
        raise ValueError(f"{where} must hold images ({', '.join(SUFFIXES)}), got none")


def read_text(path: str | PathLike[str], where: str) -> str:
    """The text of a UTF-8 file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is a folder, or no UTF-8.
    """
    path = Path(path)
    expect_file(path, where)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {path} is not UTF-8 text: {error}") from error


def number(text: Any, name: str) -> float:
    """A finite number; ``name`` is how messages begin."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not abs(value) < 1e15:  # also where it is NaN
        raise ValueError(f"{name} must be a finite number, got {short_repr(text)}")
    return value
