"""Label Studio: the boxes as predictions, which an annotator accepts or corrects.

Source: https://labelstud.io/guide/predictions: a region's x, y, width and height are per cent of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.exports.images import ExplainedImage, explained_images
from detxai.coco.stored.rows import Row
from detxai.data.error_kinds import KINDS

LOCAL_FILES = "/data/local-files/?d="  # Label Studio serves files of LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT there


def local_file(file_name: str) -> str:
    """The address of an image that Label Studio serves itself.

    >>> local_file("a b.jpg")
    '/data/local-files/?d=a%20b.jpg'
    """
    return LOCAL_FILES + quote(file_name)


def to_label_studio(run: ExplainedBoxes, address: Callable[[str], str] = local_file) -> Iterator[dict[str, Any]]:
    """A task for each explained image, as JSON holds it: import the list into a project of ``label_studio_config``.

    Predictions and missed annotations are regions of one prediction, each with its kind as a choice of its own, so that
    a filter of Label Studio finds the mistakes.

    Args:
        run: from ``detxai.coco.load``, filtered or not.
        address: of an image, by its ``file_name``.
    """
    model = str(run.manifest["question"]["method"])
    return (_task(image, address, model) for image in explained_images(run))


def label_studio_config(categories: Iterable[str]) -> str:
    """The labelling interface that the tasks are for, as XML."""
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in dict.fromkeys(categories))
    kinds = "".join(f"\n    <Choice value={quoteattr(kind)}/>" for kind in KINDS)
    return (
        f'<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="label" toName="image">{labels}\n'
        f'  </RectangleLabels>\n  <Choices name="kind" toName="image" perRegion="true">{kinds}\n  </Choices>\n</View>\n'
    )


def _task(image: ExplainedImage, address: Callable[[str], str], model: str) -> dict[str, Any]:
    regions = [region for row in image.rows for region in _regions(row, image.size)]
    scores = [row["score"] for row in image.rows if row["score"] is not None]
    prediction = {"model_version": f"detxai {model}", "score": min(scores, default=0.0), "result": regions}
    about = {"image_id": image.rows[0]["image_id"], "kinds": sorted({row["kind"] for row in image.rows})}
    return {"data": {"image": address(image.rows[0]["file_name"]), **about}, "predictions": [prediction]}


def _regions(row: Row, size: tuple[int, int]) -> list[dict[str, Any]]:
    """The rectangle of a box, and its kind."""
    height, width = size
    x1, x2 = (min(max(x, 0.0), width) for x in row["box"][::2])
    y1, y2 = (min(max(y, 0.0), height) for y in row["box"][1::2])
    place = {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
    }
    shared = {
        "id": f"row{row['row']}",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    score = {} if row["score"] is None else {"score": min(max(row["score"], 0.0), 1.0)}
    label = {"rectanglelabels": [row["category"]]}
    return [
        {**shared, **score, "from_name": "label", "type": "rectanglelabels", "value": {**place, **label}},
        {**shared, "from_name": "kind", "type": "choices", "value": {**place, "choices": [row["kind"]]}},
    ]
