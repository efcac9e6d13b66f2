"""Which reader an annotation file or folder is for, and the one function that reads any of them."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from detxai.data.image_files import ImageFolder
from detxai.data.readers.annotated_images import AnnotatedImages, image_names
from detxai.data.readers.coco import read_coco
from detxai.data.readers.folder import read_image_folder, read_images_at
from detxai.data.readers.huggingface import is_saved_dataset, read_huggingface
from detxai.data.readers.voc import read_voc
from detxai.data.readers.yolo import read_yolo
from detxai.runs.remote.address import Address, path_or_address

Reader = Callable[[Path, Path | None, str | None], AnnotatedImages]
READERS: dict[str, Reader] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "huggingface": read_huggingface,
    "images": read_image_folder,
}
FORMATS = tuple(READERS)
WITH_SPLITS = ("yolo", "voc", "huggingface")


def read_annotated_images(
    annotations: str | PathLike[str] | None,
    images: str | PathLike[str] | ImageFolder | None = None,
    *,
    annotation_format: str | None = None,
    split: str | None = None,
) -> AnnotatedImages:
    """The images of a data set and their annotations, in any of five formats.

    ``coco``: a JSON file. ``yolo``: a ``data.yaml`` with its txt labels. ``voc``: a folder of Pascal VOC's XML files,
    or the one above ``Annotations`` and ``JPEGImages``. ``huggingface``: what ``save_to_disk`` or ``to_parquet`` of
    ``datasets`` wrote. ``images``: a folder of images without annotations.

    Args:
        annotations: the file or folder; None: ``images`` is a folder of images without annotations.
        images: the folder that file names start from. ``coco`` needs it; ``huggingface`` too, to write its images
            there, as it keeps them inside its tables. For ``yolo`` it takes the place of the file's ``path``, for
            ``voc`` that of ``JPEGImages``. With ``coco`` and ``images`` it may be an address (``s3://...``).
        annotation_format: of ``FORMATS``; None: recognised by what is there.
        split: ``val``, ``test``, ... where the data set has several; None: ``val`` of a ``data.yaml``, every file of a
            VOC folder, the only one of a Hugging Face data set.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: it is of none of these formats, or wrong; the message names file, entry and field.
        ImportError: a package that the format needs is not installed.
    """
    folder = None if images is None else path_or_address(images)
    path = folder if annotations is None else path_or_address(annotations)
    if path is None:
        raise ValueError("give annotations, or a folder of images without them")
    if annotations is None:
        annotation_format = annotation_format or "images"
    if isinstance(path, Address):
        if annotations is None and annotation_format == "images":
            return read_images_at(path)
        raise ValueError(f"annotations must be on a disk of this machine, got the address {path}; copy them")
    if annotation_format is not None and annotation_format not in READERS:
        raise ValueError(f"annotation_format must be one of {', '.join(FORMATS)}, got {annotation_format!r}")
    if not path.exists():
        raise FileNotFoundError(f"annotations: no such file: {path}")
    chosen = recognised(path) if annotation_format is None else annotation_format
    if split is not None and chosen not in WITH_SPLITS:
        raise ValueError(f"split is for {', '.join(WITH_SPLITS)}; {path} is read as {chosen}, which has one split")
    if chosen == "coco":
        return read_coco(path, folder)
    if isinstance(folder, Address):
        raise ValueError(f"images: an address ({folder}) is for COCO annotations; {path} is read as {chosen}")
    return READERS[chosen](path, folder, split)


def recognised(path: Path) -> str:
    """The format of a file or folder that is there.

    Raises:
        ValueError: it is of none.
    """
    suffix = path.suffix.lower()
    if path.is_file():
        by_suffix = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".parquet": "huggingface", ".xml": "voc"}
        return by_suffix.get(suffix, "coco")  # COCO's files may be called anything
    if is_saved_dataset(path):
        return "huggingface"
    if (path / "Annotations").is_dir() or any(path.glob("*.xml")):
        return "voc"
    if any(path.rglob("*.parquet")):
        return "huggingface"
    yaml = [file.name for ending in ("*.yaml", "*.yml") for file in path.glob(ending)]
    if yaml:
        raise ValueError(f"annotations: {path} is a folder with {', '.join(sorted(yaml)[:5])}: give that file")
    if image_names(path, path):
        return "images"
    raise ValueError(
        f"annotations: {path} is in no known format: expected Pascal VOC's XML files, what save_to_disk or "
        f"to_parquet of datasets wrote, or images; --annotation-format takes one of {', '.join(FORMATS)}"
    )
