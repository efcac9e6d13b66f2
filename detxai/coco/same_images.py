"""Whether a folder of images still holds the pictures that a run has looked at, whatever their files are called."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from detxai.coco.folder import CocoFolder
from detxai.coco.rows import pixels_sha256
from detxai.images import load_image, to_uint8
from detxai.runs.tables import import_pyarrow, is_whole_table


def expect_same_images(folder: CocoFolder, images: Path) -> None:
    """Raise where an image in ``images`` is another picture than the run has seen under its name.

    Images that are not there, or damaged, are passed over: the run itself says so where it needs them.

    Args:
        folder: of the run.
        images: the folder of images that it is to go on with.

    Raises:
        ValueError: naming the image.
    """
    for name, seen in sorted(seen_images(folder).items()):
        try:
            now = pixels_sha256(to_uint8(load_image(images / name)))
        except (OSError, ValueError):
            continue
        if now != seen:
            raise ValueError(
                f"images: {images / name} is not the picture that the run in {folder.root} has seen under this name; "
                "give the images of that run, or a new folder"
            )


def seen_images(folder: CocoFolder) -> dict[str, str]:
    """File name -> ``pixels_sha256`` of every image that was detected or explained in."""
    seen: dict[str, str] = {}
    for chunk in folder.parts.glob("detected-*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one is made anew
            seen |= json.loads(chunk.read_text(encoding="utf-8"))["images"]
    for part in filter(is_whole_table, folder.explanations.glob("part-*.parquet")):
        table = import_pyarrow().parquet.read_table(part, columns=["file_name", "image_sha256"])
        seen |= dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return seen
