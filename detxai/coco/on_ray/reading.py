"""What runs in a reader: images read and decoded. Imports little, as every process that reads does so anew."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from detxai.coco.on_ray.attempts import MAX_DEATHS, Attempts, WorkerKilledError
from detxai.data.image_files import ImageFile, Pixels, decoded

Batch = dict[str, Any]  # column -> one entry a row, as ray.data gives them


def read_images(batch: Batch, attempts: Attempts) -> Batch:
    """Each image of a batch, or why it cannot be read: pixels as bytes beside their height and width."""
    columns: dict[str, list[Any]] = {"pixels": [], "height": [], "width": [], "unreadable": []}
    for task in batch["task"]:
        file, _ = pickle.loads(task)  # noqa: S301  made by this run's own driver
        image = _read(file, attempts)
        failed = isinstance(image, str)
        columns["pixels"].append(b"" if isinstance(image, str) else image.tobytes())
        columns["height"].append(0 if isinstance(image, str) else image.shape[0])
        columns["width"].append(0 if isinstance(image, str) else image.shape[1])
        columns["unreadable"].append(image if failed else "")
    whole = {name: bytes_column(values) if name == "pixels" else np.array(values) for name, values in columns.items()}
    return {"place": batch["place"], "task": batch["task"], **whole}


def _read(file: ImageFile, attempts: Attempts) -> Pixels | str:
    what = f"reading {file.image_id}"
    deaths = attempts.begin(what)
    try:
        if deaths >= MAX_DEATHS:
            return f"WorkerKilledError: {WorkerKilledError(deaths)}"
        return next(iter(decoded([file])))[1]
    finally:
        attempts.end(what)


def bytes_column(values: Sequence[Any]) -> Any:
    """A column of bytes; numpy alone would cut zeros at their ends."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
