"""A finished or running dataset of explanations, read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from detxai.coco.folder import CocoFolder
from detxai.coco.parts.stored_maps import LayerCells, StoredMap, load_map
from detxai.coco.schema import EXPLANATION_COLUMNS
from detxai.coco.stored.rows import Row, StoredRows
from detxai.data.error_kinds import KINDS
from detxai.data.image_files import ImageFolder, load_file
from detxai.detections import Detections
from detxai.explanation import Cost, Explanation
from detxai.images import pixels_sha256, to_uint8
from detxai.messages import did_you_mean, short_repr
from detxai.runs.remote.address import expect_path, path_or_address
from detxai.runs.tables import import_pyarrow

Names = str | Sequence[str]


class ExplainedBoxes(Sequence[Explanation]):
    """The explanations of a run, in the order of their rows; each read from disk on access.

    Args:
        folder: of the run.
        images: folder of the images, or its address; default: the one the run was given.

    Raises:
        FileNotFoundError: ``folder`` is not of a run.
        ValueError: its manifest is damaged, or ``folder`` is an address.
    """

    def __init__(self, folder: str | PathLike[str], images: str | PathLike[str] | ImageFolder | None = None) -> None:
        expect_path(folder, "folder", "copy it, or read its explanations/*.parquet with pyarrow, pandas or DuckDB")
        self.folder = CocoFolder(Path(folder))
        manifest = self.folder.root / "manifest.json"
        if not manifest.is_file():
            raise FileNotFoundError(f"folder must be one that detxai coco wrote; there is no {manifest}")
        try:
            self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"folder must be one that detxai coco wrote; {manifest} is damaged") from error
        self.images = path_or_address(self.manifest["images"] if images is None else images)
        self._stored = StoredRows(self.folder)
        self._places: Sequence[int] = range(len(self._stored))

    def __len__(self) -> int:
        return len(self._places)

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

    def row(self, index: int) -> Row:
        """All columns of one explanation, by name: see ``detxai.coco.schema``."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._stored.row(self._places[index % len(self)])

    def rows(self) -> Iterator[Row]:
        """All rows, a few in memory at a time."""
        return (self.row(index) for index in range(len(self)))

    def filter(
        self,
        *,
        kind: Names | None = None,
        category: Names | None = None,
        score: float | tuple[float, float] | None = None,
    ) -> ExplainedBoxes:
        """Only some of the explanations; maps and images stay on disk.

        Args:
            kind: one of ``detxai.data.error_kinds.KINDS``, or several.
            category: the name of a category, or several: predicted, or, where missed, annotated.
            score: the lowest score, or the lowest and the highest. A missed annotation has no score, and is left out.

        Raises:
            TypeError: an argument is neither of these.
            ValueError: an unknown kind, or a category that no explanation is of.

        >>> detxai.coco.load("out").filter(kind="missed", category=["cat", "dog"])  # doctest: +SKIP
        """
        kinds, categories, scores = _names(kind, "kind"), _names(category, "category"), _score_range(score)
        unknown = [name for name in kinds or () if name not in KINDS]
        if unknown:
            hint = did_you_mean(unknown[0], KINDS)
            raise ValueError(f"kind must be some of {', '.join(KINDS)}, got {', '.join(unknown)}{hint}")
        table = self.table(["kind", "category", "score"])
        seen = set(table["category"].to_pylist())
        unknown = [name for name in categories or () if name not in seen]
        if unknown:
            hint = did_you_mean(unknown[0], seen)
            raise ValueError(f"category must be some of {', '.join(sorted(seen))}, got {', '.join(unknown)}{hint}")
        chosen = np.ones(len(self), dtype=bool)
        for name, wanted in (("kind", kinds), ("category", categories)):
            if wanted is not None:
                chosen &= np.isin(np.array(table[name].to_pylist(), dtype=object), list(wanted))
        if scores is not None:
            given = np.array(table["score"].to_pylist(), dtype=np.float64)  # NaN where there is none
            chosen &= (given >= scores[0]) & (given <= scores[1])
        places = [self._places[place] for place in np.flatnonzero(chosen).tolist()]
        view = ExplainedBoxes.__new__(ExplainedBoxes)
        view.__dict__.update(self.__dict__, _places=places)
        return view

    def dataset(self) -> Any:
        """A ``pyarrow.dataset.Dataset`` of all rows of the run, also of those that ``filter`` left out."""
        return self._stored.dataset()

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """A ``pyarrow.Table`` of these columns; default: all but the maps."""
        names = [name for name, _, _ in EXPLANATION_COLUMNS]
        chosen = [name for name in names if name != "map_png"] if columns is None else list(columns)
        table = self._stored.table(chosen)
        return table if isinstance(self._places, range) else table.take(import_pyarrow().array(self._places, "int64"))

    def to_pandas(self, columns: Sequence[str] | None = None, *, maps: bool = False) -> Any:
        """A ``pandas.DataFrame``, one row for each explanation.

        Args:
            columns: see ``detxai.coco.schema``; default: all but the maps as they are stored.
            maps: with a column ``map`` of ``LazyMap``: each is read when it is used, as by ``numpy.asarray``.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: python -m pip install pandas") from error
        frame = self.table(columns).to_pandas()
        if maps:
            frame["map"] = self.maps()
        return frame

    def maps(self) -> list[LazyMap]:
        """The map of each explanation, read when it is used."""
        return [LazyMap(self, index) for index in range(len(self))]

    def values(self, index: int) -> npt.NDArray[np.float32]:
        """The map alone, (height, width) float32 in pixels of the image; needs no image."""
        return values_of(self.row(index))

    def _explanation(self, row: Row) -> Explanation:
        names = {int(label): name for label, name in self.manifest["class_names"].items()}
        # a missed annotation has no score of its own: it was explained with that of the best candidate
        score = row["candidate_score"] if row["score"] is None else row["score"]
        detection = Detections([row["box"]], [min(max(score, 0.0), 1.0)], [row["label"]], names)
        image = to_uint8(load_file(self.images / row["file_name"]))
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


class LazyMap:
    """A map that is read from disk when it is used: ``numpy.asarray(lazy)`` is (height, width) float32."""

    def __init__(self, explained: ExplainedBoxes, index: int) -> None:
        self._explained, self._index = explained, index

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        values = self._explained.values(self._index)
        return values if dtype is None else values.astype(dtype)

    def __repr__(self) -> str:
        return f"<map of row {self._index}, read when it is used>"


def values_of(row: Row) -> npt.NDArray[np.float32]:
    """The map of a row, (height, width) float32."""
    stored = StoredMap(row["map_png"], row["map_scale"], row["map_offset"])
    if row["map_cells"] is not None:
        return LayerCells.read(row["map_cells"]).load(stored)
    return load_map(stored, row["image_height"], row["image_width"], row["map_stride"])


def _names(given: Names | None, argument: str) -> list[str] | None:
    if given is None:
        return None
    names = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} must be a name or a list of names, got {short_repr(given)}")
    return names


def _score_range(given: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if given is None:
        return None
    low, high = (given, float("inf")) if isinstance(given, (int, float)) else given
    if not low <= high:  # also where one is NaN
        raise ValueError(f"score must be a lowest score, or a lowest and a highest, got {short_repr(given)}")
    return float(low), float(high)


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
