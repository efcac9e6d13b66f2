"""Cases for the measures: a bundled detector, one of its scenes, and maps of any kind over it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.metrics import Case


@cache
def scenes_detector() -> Detector:
    return detxai.wrap("scenes-frcnn")


@cache
def scene_image() -> npt.NDArray[np.uint8]:
    from detxai.scenes import generate

    return generate(0, "local").image


@cache
def scene_detections() -> Detections:
    return scenes_detector().detect(scene_image())[:2]


def noise(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(n, height, width) independent uniform numbers in [0, 1]."""
    return torch.rand(n, height, width, generator=torch.Generator().manual_seed(seed))


def smooth(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(n, height, width) signed maps of smooth blobs."""
    coarse = torch.randn(n, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[:, 0]


def scene_case(maps: Tensor | None = None, **known: Any) -> Case:
    """Two detections of a scene, by default with smooth signed maps."""
    image = scene_image()
    maps = smooth(2, *image.shape[:2]) if maps is None else maps
    return Case(scenes_detector(), image, scene_detections(), maps, **known)


def small_case(boxes: list[list[float]], maps: Tensor, **known: Any) -> Case:
    """Any boxes and maps over a grey image of the maps' size; for measures that never ask the detector."""
    image = np.full((*maps.shape[1:], 3), 128, dtype=np.uint8)
    n = len(boxes)
    return Case(scenes_detector(), image, Detections(boxes, [0.5] * n, [1] * n), maps, **known)
