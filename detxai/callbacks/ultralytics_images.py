"""Images of an ultralytics data set, with their annotated objects."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from detxai.callbacks.panel import PanelImage
from detxai.images import Image


def validation_images(dataset: Any, places: Sequence[int]) -> list[PanelImage]:
    """The images at these places of an ultralytics dataset."""
    return [_annotated(Path(dataset.im_files[place]), dataset.labels[place]) for place in places]


def with_annotations(image: Image | PanelImage, dataset: Any) -> PanelImage:
    """An image with the objects that the dataset knows of its file; as it is where the dataset does not know it."""
    if isinstance(image, PanelImage) or not isinstance(image, (str, PathLike)):
        return image if isinstance(image, PanelImage) else PanelImage(image)
    known = {os.path.realpath(file): place for place, file in enumerate(dataset.im_files)}
    place = known.get(os.path.realpath(image))
    return PanelImage(image) if place is None else validation_images(dataset, [place])[0]


def evenly_spread(n: int, most: int) -> list[int]:
    """At most ``most`` of n places, evenly spread.

    >>> evenly_spread(100, 4), evenly_spread(2, 4)
    ([12, 37, 62, 87], [0, 1])
    """
    return [int((place + 0.5) * n / most) for place in range(most)] if n > most else list(range(n))


def _annotated(path: Path, label: Mapping[str, Any]) -> PanelImage:
    item = PanelImage(path)
    height, width = item.pixels.shape[:2]
    centre, size = torch.as_tensor(label["bboxes"]).float().reshape(-1, 4).split(2, 1)  # shares of the image
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1) * torch.tensor([width, height, width, height])
    return replace(item, boxes=boxes, labels=torch.as_tensor(label["cls"]).reshape(-1).long())
