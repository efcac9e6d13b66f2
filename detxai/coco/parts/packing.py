"""The result of an image as rows of the dataset: its maps packed, and measured against their boxes."""

from __future__ import annotations

from detxai.coco.parts.image_explainer import ImageResult, Row
from detxai.coco.parts.measures import Evidence
from detxai.coco.parts.stored_maps import map_row


def packed_rows(result: ImageResult, map_stride: int) -> list[Row]:
    """The rows of what was explained, each with its map.

    Args:
        result: of an image.
        map_stride: image pixels to a stored one, where the result has no cells.
    """
    rows: list[Row] = []
    packed: dict[int, tuple[Row, Evidence]] = {}  # boxes may share a map: it is packed and summed up once
    for row, explanation in zip(result.rows, result.explanations, strict=True):
        values = explanation.values
        if id(values) not in packed:
            packed[id(values)] = map_row(values, map_stride, result.cells), Evidence.from_values(values)
        map_, evidence = packed[id(values)]
        rows.append(row | map_ | evidence.measures(row["box"]))
    return rows


def in_order(rows: list[Row]) -> list[Row]:
    """The rows of a part in the order of the dataset; those taken over may come between new ones."""
    return sorted(rows, key=lambda row: row["row"])
