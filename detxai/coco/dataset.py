"""A finished or running dataset of explanations, read back."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

from detxai.coco.folder import CocoFolder
from detxai.coco.parts.stored_maps import LayerCells, StoredMap, load_map
from detxai.coco.schema import EXPLANATION_COLUMNS, arrow_schema
from detxai.detections import Detections
from detxai.explanation import Cost, Explanation
from detxai.images import load_image, pixels_sha256, to_uint8
from detxai.runs.tables import import_pyarrow, read_table


class ExplainedBoxes(Sequence[Explanation]):
    """The explanations of a run, in the order of their rows; each read from disk on access.

    Args:
        folder: of the run.
        images: folder of the images; default: the one the run was given.

    Raises:
        FileNotFoundError: ``folder`` is not of a run.
        ValueError: its manifest is damaged.
    """

    def __init__(self, folder: str | PathLike[str], images: str | PathLike[str] | None = None) -> None:
        self.folder = CocoFolder(Path(folder))
        manifest = self.folder.root / "manifest.json"
        if not manifest.is_file():
            raise FileNotFoundError(f"folder must be one that detxai coco wrote; there is no {manifest}")
        try:
            self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"folder must be one that detxai coco wrote; {manifest} is damaged") from error
        self.images = Path(self.manifest["images"] if images is None else images)
        self._files = sorted(self.folder.explanations.glob("part-*.parquet"))
        self._starts = [0]
        for path in self._files:
            self._starts.append(self._starts[-1] + import_pyarrow().parquet.read_metadata(path).num_rows)
        self._open: tuple[int, list[dict[str, Any]]] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Explanation]: ...
    def __getitem__(self, index: int | slice) -> Explanation | list[Explanation]:
        """The explanation with its image; ``row`` for what else is known of it.

        Raises:
            IndexError: no such row.
            FileNotFoundError: the image is no longer there; give ``images``.
            ValueError: another picture is there in its place.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._explanation(self.row(index))

    def row(self, index: int) -> dict[str, Any]:
        """All columns of one explanation, by name: see ``detxai.coco.schema``."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        file = bisect_right(self._starts, index) - 1
        if self._open is None or self._open[0] != file:
            self._open = (file, read_table(self._files[file]))
        return self._open[1][index - self._starts[file]]

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, one part in memory at a time."""
        return (self.row(index) for index in range(len(self)))

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """A ``pyarrow.Table`` of these columns; default: all but the maps. ``.to_pandas()`` goes on from there."""
        pa, schema = import_pyarrow(), arrow_schema(EXPLANATION_COLUMNS)
        chosen = [name for name in schema.names if name != "map_png"] if columns is None else list(columns)
        tables = [pa.parquet.read_table(path, columns=chosen) for path in self._files]
        return pa.concat_tables([schema.empty_table().select(chosen), *tables])

    def values(self, index: int) -> Any:
        """The map alone, (height, width) float32 in pixels of the image; needs no image."""
        return values_of(self.row(index))

    def _explanation(self, row: dict[str, Any]) -> Explanation:
        names = {int(label): name for label, name in self.manifest["class_names"].items()}
        # a missed annotation has no score of its own: it was explained with that of the best candidate
        score = row["candidate_score"] if row["score"] is None else row["score"]
        detection = Detections([row["box"]], [min(max(score, 0.0), 1.0)], [row["label"]], names)
        image = to_uint8(load_image(self.images / row["file_name"]))
        if pixels_sha256(image) != row["image_sha256"]:
            raise ValueError(f"images: {self.images / row['file_name']} is not the picture that was explained")
        return Explanation(
            values_of(row),
            image,
            row["method"],
            json.loads(row["settings"]),
            Cost(row["seconds"], row["forward_passes"]),
            detection if row["asks_about_box"] else None,
            model=json.loads(row["model"]),
        )


def values_of(row: dict[str, Any]) -> Any:
    """The map of a row, (height, width) float32."""
    stored = StoredMap(row["map_png"], row["map_scale"], row["map_offset"])
    if row["map_cells"] is not None:
        return LayerCells.read(row["map_cells"]).load(stored)
    return load_map(stored, row["image_height"], row["image_width"], row["map_stride"])


def load(folder: str | PathLike[str], images: str | PathLike[str] | None = None) -> ExplainedBoxes:
    """The explanations that ``detxai coco`` wrote, as a sequence of ``Explanation``.

    Maps come back within half of ``map_scale`` of what they were (0.2 % of their range), and smoother where they were
    kept coarser than the image (``map_stride``). ``channel_effects`` are not kept.

    The files are plain Parquet, for any other tool too; ``detxai.coco.schema`` describes the columns:
    ``pandas.read_parquet("DIR/explanations")``, DuckDB's ``FROM 'DIR/explanations/*.parquet'``, and
    ``datasets.load_dataset("parquet", data_files="DIR/explanations/*.parquet").cast_column("map_png", Image())``.

    Args:
        folder: the ``--out`` of the run; it may still be running.
        images: folder of the images; default: the one the run was given.

    Raises:
        FileNotFoundError: ``folder`` is not of a run.
        ImportError: pyarrow is not installed.
    """
    return ExplainedBoxes(folder, images)
