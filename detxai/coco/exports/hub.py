"""Hugging Face ``datasets``: one row for each explanation, its photo and its map as images."""

from __future__ import annotations

from typing import Any

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.schema import EXPLANATION_COLUMNS
from detxai.data.error_kinds import KINDS
from detxai.runs.tables import import_pyarrow

COLUMNS = tuple(name for name, _, _ in EXPLANATION_COLUMNS if name != "map_png")


def to_datasets(run: ExplainedBoxes) -> Any:
    """A ``datasets.Dataset``, which ``save_to_disk`` keeps and ``push_to_hub`` shares, images included.

    Beside the columns of ``detxai.coco.schema``: ``image``, the photo (read when it is used), and ``map``, grey, with
    ``value = map_offset + map_scale * pixel``. ``kind`` is a ``ClassLabel``.

    Args:
        run: from ``detxai.coco.load``, filtered or not; its maps are held in memory as they are stored.

    Raises:
        ImportError: datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError('datasets is not installed: pip install "detxai[datasets]"') from error
    pa = import_pyarrow()
    table = run.table([*COLUMNS, "map_png"])
    paths = [str((run.images / name).resolve()) for name in table["file_name"].to_pylist()]
    kinds = [KINDS.index(kind) for kind in table["kind"].to_pylist()]
    maps = pa.array([{"bytes": png.as_py(), "path": None} for png in table["map_png"]], _stored_image(pa))
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": None, "path": path} for path in paths], _stored_image(pa)),
        "map": maps,
        **{name: table[name] for name in COLUMNS},
        "kind": pa.array(kinds, "int64"),
    }
    told = datasets.Features.from_arrow_schema(table.select(list(COLUMNS)).schema)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "map": datasets.Image(),
            **told,
            "kind": datasets.ClassLabel(names=list(KINDS)),
        }
    )
    whole = pa.table(list(columns.values()), names=list(columns)).cast(features.arrow_schema)
    info = datasets.DatasetInfo(features=features, description=_description(run))
    return datasets.Dataset(datasets.table.InMemoryTable(whole), info=info)


def _stored_image(pa: Any) -> Any:
    return pa.struct({"bytes": pa.binary(), "path": pa.string()})


def _description(run: ExplainedBoxes) -> str:
    asked = run.manifest["question"]
    return f"Explanations of object detections by {asked['method']}, made by detxai; IoU {asked['iou']:g}."
