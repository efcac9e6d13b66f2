"""The rows of the dataset: a box, its map and measures, a failure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.coco.maps import Cells, store_map
from detxai.data.error_kinds import Case
from detxai.data.image_files import ImageFile
from detxai.runs.failures import reason

Row = dict[str, Any]


def map_row(values: npt.NDArray[np.float32], stride: int, cells: Cells | None = None) -> Row:
    """A map (H, W) as a PNG: of the cells where they are given, else of every ``stride``-th pixel."""
    stored = store_map(values, stride) if cells is None else cells.store(values)
    return {
        "map_png": stored.png,
        "map_scale": stored.scale,
        "map_offset": stored.offset,
        "map_stride": stride if cells is None else None,
        "map_cells": None if cells is None else cells.record(),
    }


@dataclass(frozen=True)
class Evidence:
    """A map (H, W) and what every box is measured against in it.

    Attributes:
        values: the map.
        peak: its largest value, 0 where that is below.
        total: the sum of its positive values.
        n_peaks: how many pixels have the largest value; 0 where none is positive, or where all are the same.
    """

    values: npt.NDArray[np.float32]
    peak: float
    total: float
    n_peaks: int

    @classmethod
    def of(cls, values: npt.NDArray[np.float32]) -> Evidence:
        peak = max(float(values.max()), 0.0)
        if peak == 0:
            return cls(values, 0.0, 0.0, 0)
        total = float(np.maximum(values, 0).sum(dtype=np.float64))
        n_peaks = int(np.count_nonzero(values == peak))
        return cls(values, peak, total, n_peaks if n_peaks < values.size else 0)

    def measures(self, box: Sequence[float]) -> Row:
        """How it lies to a box, xyxy: the shares of ``EnergyPointingGame`` and ``PointingGame``.

        The same numbers as ``detxai.metrics`` gives, read from the window of pixels whose centres lie in the box
        instead of through a mask: a long run asks this of every box.

        >>> Evidence.of(np.array([[1.0, 2.0, -5.0, 1.0]], dtype=np.float32)).measures((1.0, 0.0, 2.6, 1.0))
        {'energy_box': 0.5, 'energy_box_chance': 0.5, 'pointing_box': 1.0}
        """
        left, right = (_first_centre(side, self.values.shape[1]) for side in box[::2])
        top, bottom = (_first_centre(side, self.values.shape[0]) for side in box[1::2])
        window = self.values[top:bottom, left:right]
        energy = pointing = 0.0
        if self.peak > 0:
            energy = float(np.maximum(window, 0).sum(dtype=np.float64)) / self.total
        if self.n_peaks:
            pointing = int(np.count_nonzero(window == self.peak)) / self.n_peaks
        return {"energy_box": energy, "energy_box_chance": window.size / self.values.size, "pointing_box": pointing}


def _first_centre(side: float, size: int) -> int:
    """The first pixel whose centre lies at ``side`` or beyond."""
    return min(max(math.ceil(side - 0.5), 0), size)


def box_row(case: Case, category_names: Mapping[int, str]) -> Row:
    """A case as a row of ``boxes.parquet``, without the file's name."""
    meant = case.annotation_category_id
    return {
        "image_id": case.image_id,
        "kind": case.kind,
        "category_id": case.category_id,
        "category": category_names[case.category_id],
        "box": list(case.box),
        "score": case.score,
        "prediction_id": case.prediction_id,
        "annotation_id": case.annotation_id,
        "annotation_box": None if case.annotation_box is None else list(case.annotation_box),
        "annotation_category": None if meant is None else category_names[meant],
        "iou": case.iou,
        "area": case.area,
        "covered_by": case.covered_by,
        "found_below": case.found_below,
        "ap_loss": case.ap_loss,
    }


class UnreadableImageError(ValueError):
    """An image could not be read; what is wrong with it."""


def image_failure(file: ImageFile, step: str, error: BaseException, n_boxes: int, case: Case | None = None) -> Row:
    """A row of ``failures.parquet``."""
    unreadable = isinstance(error, UnreadableImageError)
    return {
        "image_id": file.image_id,
        "file_name": file.file_name,
        "step": "reading" if unreadable else step,
        "prediction_id": None if case is None else case.prediction_id,
        "annotation_id": case.annotation_id if case is not None and case.prediction_id is None else None,
        "n_boxes": n_boxes,
        "reason": str(error) if unreadable else reason(error),
    }


def pixels_sha256(image: npt.NDArray[np.uint8]) -> str:
    """Which picture (height, width, 3) it is, whatever its file is called: as ``Explanation.record`` says it too."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
