"""What came out: a record for each detection and method, and their table."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detxai.evaluate.results.statistics import score_stratum, size_stratum
from detxai.metrics.inputs.case import Measure, Quantity
from detxai.metrics.inputs.maps import heatmaps
from detxai.metrics.insertion_deletion import InsertionDeletion
from detxai.runs.tables import import_pyarrow, write_table

THUMBNAIL = 64  # pixels along the longer side: enough to see where a map lies
COLUMNS: dict[str, type] = {
    "image": str, "kind": str, "detection": int, "x1": float, "y1": float, "x2": float, "y2": float, "label": int,
    "name": str, "score": float, "object": int, "size": str, "score_stratum": str, "method": str, "settings": str,
    "measure": str, "quantity": str, "value": float, "better": str, "chance": float, "seconds": float,
    "steps": int, "fill": str, "unit": str, "score_function": str, "reference": str,
}  # fmt: skip
COMPARED = (
    "steps",
    "fill",
    "unit",
    "score",
    "reference",
)  # settings of a measure that its figures are worthless without


@dataclass(frozen=True, eq=False)
class Record:
    """One detection under one method.

    Attributes:
        image: its name; ``kind``: of scene, empty for a photo.
        number: the image's among all; ``place``: the detection's among all that the detector reports for the image.
        box, label, name, score: the detection: xyxy in pixels of the image, class number, class name, score.
        of_object: the annotated object that it is of, -1 for none.
        method: the name that the method goes under.
        seconds: what its call for the image took, shared out among the image's detections.
        values: quantity -> value; NaN where it does not apply.
        curves: ``fractions``, ``insertion`` and ``deletion`` where they were measured.
        thumbnail: the heatmap, small.
    """

    image: str
    kind: str
    number: int
    place: int
    box: tuple[float, ...]
    label: int
    name: str
    score: float
    of_object: int
    method: str
    seconds: float
    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]]
    thumbnail: str

    @property
    def detection(self) -> tuple[int, int]:
        """Which detection of all."""
        return self.number, self.place

    @property
    def strata(self) -> dict[str, str]:
        """Where it belongs: by size, by clean score and, for a scene, by kind."""
        kind = {"kind": self.kind} if self.kind else {}
        return {"size": size_stratum(self.box), "clean score": score_stratum(self.score), **kind}

    @property
    def small_heatmap(self) -> npt.NDArray[np.float32]:
        """(h, w) in [0, 1]."""
        shape, _, packed = self.thumbnail.partition(":")
        height, width = map(int, shape.split("x"))
        pixels = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=np.uint8)
        return (pixels.reshape(height, width) / 255).astype(np.float32)


def thumbnail(map_: torch.Tensor) -> str:
    """The heatmap of a map (H, W), averaged down to 64 pixels along its longer side, as text."""
    height, width = map_.shape
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = torch.nn.functional.adaptive_avg_pool2d(heatmaps(map_.cpu().float())[None], size)
    pixels = (small[0] * 255).round().to(torch.uint8).numpy()
    return f"{size[0]}x{size[1]}:{base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode('ascii')}"


def as_json(values: Mapping[str, float]) -> dict[str, float | None]:
    """Values as JSON can hold them: None for NaN and infinity."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def from_json(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def quantities_of(measures: Iterable[Measure]) -> dict[str, tuple[Measure, Quantity]]:
    """Every quantity of the measures, by name, with the measure that it is of.

    Raises:
        ValueError: two measures call something by the same name.
    """
    found: dict[str, tuple[Measure, Quantity]] = {}
    for measure in measures:
        for name, quantity in measure.quantities.items():
            if name in found:
                raise ValueError(f"measures must not share {name!r}, got {found[name][0].name} and {measure.name}")
            found[name] = measure, quantity
    return found


def write_parquet(
    path: Path, records: Sequence[Record], measures: Sequence[Measure], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write a row for each detection, method and quantity.

    Args:
        path: the file.
        records: in the order of the rows.
        measures: whose quantities.
        settings: method -> its settings, as JSON can hold them.
    """
    pyarrow = import_pyarrow()
    texts = {method: json.dumps(one) for method, one in settings.items()}
    quantities = quantities_of(measures)
    rows = [
        _row(record, texts[record.method], name, value, *quantities[name])
        for record in records
        for name, value in record.values.items()
    ]
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    write_table(path, rows, schema)


def _row(
    record: Record, settings: str, name: str, value: float, measure: Measure, quantity: Quantity
) -> dict[str, Any]:
    return {
        **_about(record),
        "settings": settings,
        "measure": measure.name,
        "quantity": name,
        "value": value,
        "better": quantity.better,
        "chance": _chance(quantity, record),
        "seconds": record.seconds,
        **_compared(measure, name),
    }


def _about(record: Record) -> dict[str, Any]:
    x1, y1, x2, y2 = record.box
    strata = record.strata
    return {
        "image": record.image, "kind": record.kind, "detection": record.place, "x1": x1, "y1": y1, "x2": x2, "y2": y2,
        "label": record.label, "name": record.name, "score": record.score, "object": record.of_object,
        "size": strata["size"], "score_stratum": strata["clean score"], "method": record.method,
    }  # fmt: skip


def _chance(quantity: Quantity, record: Record) -> float:
    if isinstance(quantity.chance, str):
        return record.values[quantity.chance]
    return math.nan if quantity.chance is None else quantity.chance


def _compared(measure: Measure, quantity: str) -> dict[str, Any]:
    given = {name: getattr(measure, name, None) for name in COMPARED}
    fill = measure.fill_of(quantity) if isinstance(measure, InsertionDeletion) else given["fill"]
    return {
        "steps": given["steps"],
        "fill": fill if fill is None or isinstance(fill, str) else json.dumps(list(fill)),
        "unit": given["unit"],
        "score_function": given["score"],
        "reference": given["reference"],
    }
