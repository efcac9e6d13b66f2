"""Scenes as files: COCO annotations with the evidence, and the folder layout that Ultralytics trains from."""

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from tqdm import tqdm

from detxai.runs.files import write_bytes
from detxai.scenes.draw import Bools
from detxai.scenes.scene import Scene, check_integer, generate
from detxai.scenes.world import CLASS_NAMES, DEFAULT_SIZE, Kind


def export_coco(
    folder: str | Path,
    n_images: int,
    seed: int = 0,
    *,
    kind: Kind | None = None,
    size: int = DEFAULT_SIZE,
    progress: bool = False,
) -> Path:
    """Write ``n_images`` scenes as PNG and a COCO annotations file; returns the path of ``annotations.json``.

    Beside the usual fields every annotation has ``evidence`` (COCO RLE of the pixels that decide its class),
    ``evidence_parts`` (the RLE of each mark) and ``evidence_rule`` ("all", "any" or "none"); every image has ``kind``
    and ``seed``. Category ids start at 1. The annotations are written last, so a folder that has them is complete.

    Args:
        folder: a new or empty folder; nothing outside it is written.
        n_images: number of scenes, at least 1; their seeds are ``seed``, ``seed + 1``, ...
        seed: the first seed.
        kind: one of ``KINDS``; None mixes them.
        size: height and width in pixels.
        progress: show a bar on a terminal.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.
        FileExistsError: the folder holds something.
        ImportError: pycocotools is not installed.
    """
    check_integer("n_images", n_images, 1, 10**8)
    check_integer("seed", seed, 0, 2**62)
    generate(seed, kind, size)  # raises for a bad kind or size before anything is written
    target = _empty_folder(folder)
    scenes = (generate(seed + index, kind, size) for index in range(n_images))
    records = _write_split(target / "images", "", scenes, n_images, progress)
    return _write_json(target / "annotations.json", records)


def export_ultralytics(
    folder: str | Path,
    n_train: int,
    n_val: int,
    seed: int = 0,
    *,
    kind: Kind | None = None,
    size: int = DEFAULT_SIZE,
    progress: bool = False,
) -> Path:
    """Write training and validation scenes for ``YOLO.train(data=...)``; returns the path of ``data.yaml``.

    ``images/{train,val}/*.png``, ``labels/{train,val}/*.txt`` and, with the evidence, ``annotations_{train,val}.json``
    as in ``export_coco``. The data file names no absolute path: the folder can be moved.

    Args:
        folder: a new or empty folder; nothing outside it is written.
        n_train: number of training scenes, at least 1; seeds from ``seed``.
        n_val: number of validation scenes, at least 1; seeds from ``seed + n_train``.
        seed: the first seed.
        kind: one of ``KINDS``; None mixes them.
        size: height and width in pixels.
        progress: show a bar on a terminal.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.
        FileExistsError: the folder holds something.
        ImportError: pycocotools is not installed.
    """
    check_integer("n_train", n_train, 1, 10**8)
    check_integer("n_val", n_val, 1, 10**8)
    check_integer("seed", seed, 0, 2**62)
    generate(seed, kind, size)
    target = _empty_folder(folder)
    for split, count, first in (("train", n_train, seed), ("val", n_val, seed + n_train)):
        scenes = (generate(first + index, kind, size) for index in range(count))
        labelled = _with_label_files(target / "labels" / split, scenes)
        records = _write_split(target / "images", split, labelled, count, progress)
        _write_json(target / f"annotations_{split}.json", records)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASS_NAMES))
    data = target / "data.yaml"
    write_bytes(data, f"train: images/train\nval: images/val\nnames:\n{names}".encode())
    return data


def encode_mask(mask: Bools) -> dict[str, Any]:
    """A bool (H, W) mask as COCO RLE with text counts.

    Raises:
        ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise ImportError("COCO masks need pycocotools: pip install pycocotools") from error
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _empty_folder(folder: str | Path) -> Path:
    if not isinstance(folder, str | Path):
        raise TypeError(f"folder must be a str or a Path, got {type(folder).__name__}")
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"folder must be a folder, {target} is a file")
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"folder must be new or empty, {target} holds files")
    target.mkdir(parents=True, exist_ok=True)
    return target


def _write_split(images: Path, split: str, scenes: Iterable[Scene], count: int, progress: bool) -> dict[str, Any]:
    """Write the pictures; returns the COCO records that describe them."""
    records: dict[str, Any] = {
        "info": {"description": "detxai scenes: the evidence of every label is known"},
        "images": [],
        "annotations": [],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(CLASS_NAMES)],
    }
    bar = tqdm(scenes, total=count, unit="scene", disable=not (progress and sys.stderr.isatty()))
    for number, scene in enumerate(bar, start=1):
        name = f"{scene.seed:012d}.png"
        write_bytes(images / split / name, _png(scene))
        height, width = scene.image.shape[:2]
        file_name = str(Path("images", split, name).as_posix())
        size = {"height": height, "width": width}
        records["images"].append({"id": number, "file_name": file_name, **size, "kind": scene.kind, "seed": scene.seed})
        for index in range(len(scene)):
            identity = len(records["annotations"]) + 1
            records["annotations"].append({"id": identity, "image_id": number, **_annotation(scene, index)})
    return records


def _annotation(scene: Scene, index: int) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in scene.boxes[index])
    return {
        "category_id": int(scene.labels[index]) + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(scene.silhouettes[index].sum()),
        "iscrowd": 0,
        "segmentation": encode_mask(scene.silhouettes[index]),
        "evidence": encode_mask(scene.evidence[index]),
        "evidence_parts": [encode_mask(part) for part in scene.evidence_parts[index]],
        "evidence_rule": scene.rules[index],
    }


def _with_label_files(folder: Path, scenes: Iterable[Scene]) -> Iterable[Scene]:
    """Pass the scenes on, writing for each its lines of ``class x y width height`` as fractions of the image."""
    for scene in scenes:
        lines = []
        for label, (left, top, right, bottom) in zip(scene.labels, scene.boxes / scene.image.shape[0], strict=True):
            centre = f"{(left + right) / 2:.6f} {(top + bottom) / 2:.6f}"
            lines.append(f"{label} {centre} {right - left:.6f} {bottom - top:.6f}\n")
        write_bytes(folder / f"{scene.seed:012d}.txt", "".join(lines).encode())
        yield scene


def _png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(scene.image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write_json(path: Path, records: dict[str, Any]) -> Path:
    write_bytes(path, json.dumps(records).encode())
    return path
