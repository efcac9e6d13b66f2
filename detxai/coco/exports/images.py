"""The explanations of a run, image by image, and as pictures: what several tools are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detxai.coco.dataset import ExplainedBoxes, values_of
from detxai.coco.stored.rows import Row
from detxai.pages.pictures import outline, under_map

Heat = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ExplainedImage:
    """One image and its explanations.

    Attributes:
        path: of the image's file.
        rows: one for each explained box, as ``detxai.coco.schema`` describes them.
    """

    path: Path
    rows: list[Row]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rows[0]["image_height"], self.rows[0]["image_width"]


def explained_images(run: ExplainedBoxes) -> Iterator[ExplainedImage]:
    """The images of a run that have explanations, in its order; one in memory at a time.

    Raises:
        ValueError: its images are at an address; the tools are given paths.
    """
    images = run.images
    if not isinstance(images, Path):
        raise ValueError(f"images must be on a disk of this machine, got the address {images}: give --images a copy")
    for _, rows in groupby(run.rows(), key=lambda row: row["image_id"]):
        of_image = list(rows)
        yield ExplainedImage(images / of_image[0]["file_name"], of_image)


def heat_of(row: Row) -> Heat:
    """The positive evidence of a row's map, (height, width): 255 at its peak; all 0 where there is none."""
    positive = np.maximum(values_of(row), 0)
    peak = float(positive.max())
    return np.rint(positive * (255 / peak if peak > 0 else 0)).astype(np.uint8)


def pictured(run: ExplainedBoxes, index: int) -> npt.NDArray[np.uint8]:
    """The photo under one map, its box outlined: (height, width, 3) uint8."""
    explanation, row = run[index], run.row(index)
    height, width = explanation.image.shape[:2]
    picture = under_map(explanation, (width, height))
    outline(picture, row["box"], scale=1.0)
    return np.asarray(picture)


def caption_of(row: Row) -> str:
    """Kind, category and score in a line."""
    score = "" if row["score"] is None else f" {row['score']:.2f}"
    return f"{row['kind'].replace('_', ' ')}: {row['category']}{score}"
