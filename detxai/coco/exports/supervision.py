"""supervision: its detections with kinds and maps, and pictures by its annotators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.exports.images import caption_of, explained_images, heat_of
from detxai.images import load_image, to_uint8
from detxai.progress import progress_bar
from detxai.runs.files import make_folder, replacing
from detxai.runs.names import safe_name

MORE = ("kind", "iou", "ap_loss", "stage")


def to_supervision(run: ExplainedBoxes) -> Iterator[tuple[Path, Any]]:
    """The path of each explained image and its ``supervision.Detections``.

    ``data`` holds ``class_name``, ``kind``, ``iou``, ``ap_loss``, ``stage`` and ``heatmap`` (N, height, width) uint8,
    255 at each map's peak; a missed annotation's ``confidence`` is 0.
    ``detections[detections.data["kind"] == "missed"]`` selects.

    Args:
        run: from ``detxai.coco.load``, filtered or not.

    Raises:
        ImportError: supervision is not installed.
    """
    supervision = _supervision()
    for image in explained_images(run):
        data = {name: np.array([row[name] for row in image.rows], dtype=object) for name in MORE}
        data["class_name"] = np.array([row["category"] for row in image.rows])
        data["heatmap"] = np.stack([heat_of(row) for row in image.rows])
        yield (
            image.path,
            supervision.Detections(
                xyxy=np.array([row["box"] for row in image.rows], dtype=np.float32),
                confidence=np.array([row["score"] or 0.0 for row in image.rows], dtype=np.float32),
                class_id=np.array([row["label"] for row in image.rows]),
                data=data,
            ),
        )


def save_annotated(run: ExplainedBoxes, folder: Path) -> list[Path]:
    """Draw the boxes of each explained image with supervision's annotators, and save a PNG of each.

    Args:
        run: from ``detxai.coco.load``, filtered or not.
        folder: of the pictures; it must not be there yet, or be empty.

    Raises:
        ValueError: it is not empty.
        ImportError: supervision is not installed.
    """
    supervision = _supervision()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder must be new or empty, got {folder}")
    make_folder(folder)
    colours = {"color_lookup": supervision.ColorLookup.INDEX}
    boxes = supervision.BoxAnnotator(thickness=2, **colours)
    labels = supervision.LabelAnnotator(text_scale=0.4, text_padding=3, **colours)
    written = []
    with progress_bar(None, len(run), "drawing", "box") as bar:
        for image, (path, detections) in zip(explained_images(run), to_supervision(run), strict=True):
            scene = to_uint8(load_image(path))[..., ::-1].copy()  # supervision draws on BGR
            scene = labels.annotate(boxes.annotate(scene, detections), detections, [*map(caption_of, image.rows)])
            name = f"{image.rows[0]['row']:06d}_{safe_name(path.stem)}.png"
            with replacing(folder / name) as temporary:
                PIL.Image.fromarray(scene[..., ::-1]).save(temporary)
            written.append(folder / name)
            bar.update(len(image.rows))
    return written


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise ImportError('supervision is not installed: pip install "detxai[supervision]"') from error
    return supervision
