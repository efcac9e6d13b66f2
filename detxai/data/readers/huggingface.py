"""A Hugging Face data set on disk: what ``save_to_disk`` or ``to_parquet`` of ``datasets`` wrote. pyarrow reads it.

Expected are the columns ``image`` and ``objects``, as in the Hub's detection data sets: for each object ``bbox`` as x,
y, width and height in pixels, and ``category``, a class of ``ClassLabel``, a number or a name; optional are ``area``,
``iscrowd``, and a column ``image_id``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detxai.data.readers.annotated_images import AnnotatedImages, CocoContent, number, read_text
from detxai.images import open_image, upright_size
from detxai.messages import short_repr
from detxai.runs.files import make_folder, write_bytes
from detxai.runs.tables import import_pyarrow

OBJECTS = ("objects", "annotations", "faces")
BOXES, CLASSES = ("bbox", "bboxes", "boxes"), ("category", "categories", "category_id", "label", "labels")
BATCH = 32  # rows in memory at a time
Row = Mapping[str, Any]


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is what ``save_to_disk`` wrote: one split, or several."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_huggingface(path: Path, images: Path | None = None, split: str | None = None) -> AnnotatedImages:
    """A Hugging Face data set on disk; see ``read_annotated_images``.

    Its images are inside its tables: they are written to ``images``, as they are, once; a file that is there with other
    content is never overwritten.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the data set is not as expected, or ``images`` holds another file under a name that is needed; the
            message names row and field.
        ImportError: pyarrow is not installed.
        WriteError: an image cannot be written.
    """
    if images is None:
        raise ValueError(f"images must be a folder to write the images of {path} to: they are inside its tables")
    source = _Tables.find(path, split)
    where = f"annotations: {path}"
    make_folder(images)
    rows = [_row(row, place, source, where, images) for place, row in enumerate(source.rows())]
    if not rows:
        raise ValueError(f"{where} must have rows, got none")
    names = source.class_names() or _names_of(rows)
    numbers = {name: label for label, name in names.items()}
    content = CocoContent(names)
    for row in rows:
        image_id = content.add_image(row.file_name, row.size, row.image_id)
        for category, bbox, more in row.objects:
            label = numbers.get(category) if isinstance(category, str) else category
            if label not in names:
                raise ValueError(f"{row.where}: category must be one of the {len(names)} classes, got {category!r}")
            content.add_annotation(image_id, label, bbox, **more)
    return AnnotatedImages(content.record(), images, "huggingface")


@dataclass(frozen=True)
class _ImageRow:
    """One row: the file that its image was written to, and its objects as class, box and what else is known."""

    file_name: str
    size: tuple[int, int]
    image_id: int | None
    objects: Sequence[tuple[Any, list[float], dict[str, Any]]]
    where: str


@dataclass(frozen=True)
class _Tables:
    """The files that hold the rows of a split."""

    files: Sequence[Path]
    base: Path

    @classmethod
    def find(cls, path: Path, split: str | None) -> _Tables:
        where = f"annotations: {path}"
        if path.is_dir() and (path / "dataset_dict.json").is_file():
            splits = _json(path / "dataset_dict.json", where).get("splits")
            path = path / _chosen(splits if isinstance(splits, list) else [], split, where)
        if path.is_dir() and (path / "state.json").is_file():
            listed = _json(path / "state.json", where).get("_data_files")
            names = [str(one.get("filename", "")) for one in listed or () if isinstance(one, dict)]
            if not names or not all(name and Path(name).name == name for name in names):
                raise ValueError(f"{where}: state.json must list its '_data_files', got {short_repr(listed)}")
            return cls([path / name for name in names], path)
        if path.is_file():
            return cls([path], path.parent)
        found = sorted(path.rglob("*.parquet"))
        stems = sorted({file.stem.split("-")[0] for file in found})  # datasets writes train-00000-of-00002.parquet
        if split is not None or len(stems) > 1:
            chosen = _chosen(stems, split, where)
            found = [file for file in found if file.stem.split("-")[0] == chosen]
        if not found:
            raise ValueError(f"{where} must hold Parquet files, or what save_to_disk wrote; got neither")
        return cls(found, path)

    def rows(self) -> Iterator[Row]:
        for file in self.files:
            with _Opened(file) as opened:
                yield from opened.rows()

    def class_names(self) -> dict[int, str]:
        """The names of the objects' ``ClassLabel``; none where the categories are plain numbers or texts."""
        with _Opened(self.files[0]) as opened:
            metadata = opened.schema.metadata or {}
        try:
            features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        except (ValueError, KeyError, TypeError):
            return {}
        for objects in (features.get(name) for name in OBJECTS if isinstance(features, dict)):
            names = _class_label(objects)
            if names:
                return dict(enumerate(names))
        return {}


class _Opened:
    """A Parquet file or an Arrow stream, read a few rows at a time."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise FileNotFoundError(f"annotations: no such file: {file}")
        pa = import_pyarrow()
        self.file, self._source = file, None
        try:
            if file.suffix == ".parquet":
                self._reader = pa.parquet.ParquetFile(file)
                self.schema = self._reader.schema_arrow
            else:
                self._source = pa.memory_map(str(file))
                self._reader = pa.ipc.open_stream(self._source)
                self.schema = self._reader.schema
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"annotations: {file} is damaged, or no table: {error}") from error

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *raised: object) -> None:
        self._reader.close()
        if self._source is not None:
            self._source.close()

    def rows(self) -> Iterator[Row]:
        batches = self._reader.iter_batches(BATCH) if self._source is None else self._reader
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH):
                yield from batch.slice(start, BATCH).to_pylist()


def _chosen(splits: Sequence[str], split: str | None, where: str) -> str:
    there = [name for name in splits if isinstance(name, str) and Path(name).name == name]
    if split is None and len(there) == 1:
        return there[0]
    if split is None or split not in there:
        asked = "several splits" if split is None else f"no split {split!r}"
        raise ValueError(f"{where} has {asked}; there are {', '.join(there) or 'none'}; give --split")
    return split


def _json(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, where))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}: {path.name} must be a JSON object, got {short_repr(content)}")
    return content


def _class_label(feature: Any) -> list[str]:
    """The names of the ``ClassLabel`` called ``category``, or the like, wherever it is inside a feature's record."""
    if isinstance(feature, list):
        return next((names for one in feature if (names := _class_label(one))), [])
    if not isinstance(feature, dict):
        return []
    for name in CLASSES:
        label = feature.get(name)
        label = label.get("feature", label) if isinstance(label, dict) and "_type" in label else label
        if isinstance(label, dict) and label.get("_type") == "ClassLabel" and isinstance(label.get("names"), list):
            return [str(one) for one in label["names"]]
    return _class_label(feature.get("feature"))


def _names_of(rows: Sequence[_ImageRow]) -> dict[int, str]:
    """Categories that no ``ClassLabel`` names: texts, sorted, from 0; or the numbers themselves."""
    seen = {category for row in rows for category, _, _ in row.objects}
    if all(isinstance(one, str) for one in seen):
        return dict(enumerate(sorted(seen)))
    if all(isinstance(one, int) for one in seen):
        return {one: str(one) for one in sorted(seen)}
    raise ValueError(f"{rows[0].where}: category must be numbers or texts throughout, got both")


def _row(row: Row, place: int, source: _Tables, where: str, images: Path) -> _ImageRow:
    name = f"{where}, row {place}"
    content, kind = _image_bytes(row, source.base, name)
    file_name = f"{place:08d}.{kind}"
    path = images / file_name
    if not path.is_file():
        write_bytes(path, content)
    elif path.read_bytes() != content:
        raise ValueError(f"images: {path} is another picture than {name}; give a new or an empty folder")
    image_id = row.get("image_id")
    if image_id is not None and (isinstance(image_id, bool) or not isinstance(image_id, int)):
        image_id = None
    size = upright_size(path)
    return _ImageRow(file_name, size, image_id, list(_objects(row, size, name)), name)


def _image_bytes(row: Row, base: Path, name: str) -> tuple[bytes, str]:
    """The file of a row's image, and its suffix."""
    image = row.get("image")
    content = image.get("bytes") if isinstance(image, dict) else None
    if content is None:
        given = image.get("path") if isinstance(image, dict) else image
        if not isinstance(given, str) or not (base / given).is_file():
            raise ValueError(f"{name}: image must be bytes or the path of a file, got {short_repr(image)}")
        content = (base / given).read_bytes()
    try:
        with open_image(io.BytesIO(content)) as opened:
            kind = str(opened.format).lower()
    except Exception as error:  # each of Pillow's decoders raises what it likes
        raise ValueError(f"{name}: image cannot be read: {error}") from error
    return content, "jpg" if kind == "jpeg" else kind


def _objects(row: Row, size: tuple[int, int], name: str) -> Iterator[tuple[Any, list[float], dict[str, Any]]]:
    column = next((one for one in OBJECTS if one in row), None)
    if column is None:
        raise ValueError(f"{name}: must have a column {', '.join(OBJECTS)}, got {', '.join(row)}")
    given = row[column]
    if isinstance(given, dict):  # a struct of lists, or a list of structs: datasets has had both
        fields = {key: values for key, values in given.items() if isinstance(values, list)}
        n = {len(values) for values in fields.values()}
        if len(n) > 1:
            raise ValueError(f"{name}: {column} must have lists of one length, got {sorted(n)}")
        given = [dict(zip(fields, one, strict=True)) for one in zip(*fields.values(), strict=True)]
    if not isinstance(given, list):
        raise ValueError(f"{name}: {column} must be a list of objects, got {short_repr(given)}")
    for place, one in enumerate(given):
        yield _object(one, size, f"{name}: {column}[{place}]")


def _object(one: Any, size: tuple[int, int], name: str) -> tuple[Any, list[float], dict[str, Any]]:
    if not isinstance(one, dict):
        raise ValueError(f"{name} must have bbox and category, got {short_repr(one)}")
    box = next((one[key] for key in BOXES if key in one), None)
    category = next((one[key] for key in CLASSES if key in one), None)
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{name}.bbox must be x, y, width and height in pixels, got {short_repr(box)}")
    if isinstance(category, bool) or not isinstance(category, (int, str)):
        raise ValueError(f"{name}.category must be a number or a name, got {short_repr(category)}")
    x, y, width, height = (number(side, f"{name}.bbox") for side in box)
    if width < 0 or height < 0 or x + width > 1.5 * size[1] or y + height > 1.5 * size[0]:
        raise ValueError(
            f"{name}.bbox must be x, y, width and height in pixels of the {size[1]} x {size[0]} image, got {box}: "
            "are these corners?"
        )
    more = {}
    if isinstance(one.get("area"), (int, float)):
        more["area"] = number(one["area"], f"{name}.area")
    if one.get("iscrowd") in (0, 1):
        more["iscrowd"] = int(one["iscrowd"])
    return category, [x, y, width, height], more
