"""Small COCO datasets: random boxes with crowds, and photos of rectangles that a seeded detector answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from faster_rcnns import small_faster_rcnn

import detxai

CATEGORIES: list[dict[str, Any]] = [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 11, "name": "owl"}]


def random_dataset(
    seed: int, n_images: int = 6, n_predictions: int = 40
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results: near-hits, duplicates, wrong classes, crowds, ties in the scores."""
    rng = np.random.default_rng(seed)
    images = [{"id": 10 + i, "file_name": f"{i}.png", "height": 100, "width": 120} for i in range(n_images)]
    annotations: list[dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(0, 7)):
            box = random_box(rng)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice([2, 5, 11])),
                    "bbox": box,
                    "area": box[2] * box[3] * 0.7,
                    "iscrowd": int(rng.random() < 0.12),
                }
            )
    results = []
    for _ in range(n_predictions):
        image_id = int(rng.integers(10, 10 + n_images))
        near = [a for a in annotations if a["image_id"] == image_id]
        box, category = random_box(rng), int(rng.choice([2, 5, 11]))
        if near and rng.random() < 0.75:
            meant = near[rng.integers(len(near))]
            shift = rng.normal(0, rng.choice([1.0, 6.0]), 4)
            x, y, width, height = np.array(meant["bbox"]) + shift
            box = [float(x), float(y), float(max(width, 1)), float(max(height, 1))]
            category = meant["category_id"] if rng.random() < 0.7 else category
        score = float(round(rng.random(), 2))
        results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, results


def random_box(rng: np.random.Generator) -> list[float]:
    left, top = rng.uniform(0, 80), rng.uniform(0, 60)
    return [float(left), float(top), float(rng.uniform(4, 40)), float(rng.uniform(4, 40))]


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_photos(folder: Path, images: list[dict[str, Any]], seed: int = 0) -> Path:
    """A picture of coloured blocks for each image record."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, image in enumerate(images):
        rng = np.random.default_rng(seed + place)
        coarse = PIL.Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((image["width"], image["height"]), PIL.Image.Resampling.BICUBIC).save(folder / image["file_name"])
    return folder


def detected_dataset(folder: Path, n_images: int = 6) -> dict[str, Path]:
    """Photos, and annotations near what ``small_faster_rcnn`` finds in them: some found, some not, some elsewhere.

    Returns:
        Paths of ``images`` (a folder) and ``annotations``.
    """
    images: list[dict[str, Any]] = [
        {"id": 3 * i + 1, "file_name": f"{i:02d}.png", "height": 60, "width": 80} for i in range(n_images)
    ]
    photos = write_photos(folder / "images", images)
    detector, rng = detxai.wrap(small_faster_rcnn()), np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    for image in images:
        found = detector.detect(photos / image["file_name"], 0.2)
        for x1, y1, x2, y2 in found.boxes[::3].round(decimals=2).double().tolist():
            label = int(found.labels[::3][0])
            shift = float(rng.choice([0.0, 0.0, 4.0, 15.0]))
            box = [x1 + shift, y1, max(x2 - x1, 1.0), max(y2 - y1, 1.0)]
            record = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label, "bbox": box}
            annotations.append({**record, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(("ape", "bee", "cat", "dog"), start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return {"images": photos, "annotations": write_json(folder / "annotations.json", content)}
