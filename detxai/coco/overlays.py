"""A picture of each explanation, on request."""

from __future__ import annotations

import re

from detxai.coco.asking import Answer
from detxai.coco.folder import Folder


def save_overlays(folder: Folder, answer: Answer) -> None:
    """Write ``overlays/000012_cat_localisation.png`` for row 12 and so on."""
    folder.overlays.mkdir(parents=True, exist_ok=True)
    for row, explanation in zip(answer.rows, answer.explanations, strict=True):
        name = re.sub(r"[^\w-]+", "_", row["category"])[:40]
        caption = f"{row['category']}, {row['kind'].replace('_', ' ')}"
        caption += "" if row["score"] is None else f", {row['score']:.2f}"
        path = folder.overlays / f"{row['row']:06d}_{name}_{row['kind']}.png"
        explanation.save(path, caption=f"{caption} · {row['method']}")
