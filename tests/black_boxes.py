"""Detectors whose score is a known function of the pixels shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import detxai
from detxai.adapters.detector import Detector
from detxai.detections import Detections

SIZE = (48, 64)
WHITE = np.full((*SIZE, 3), 255, dtype=np.uint8)
Score = Callable[[npt.NDArray[np.float64]], float]  # from what is bright (H, W), in [0, 1], to the score of the box


def sees(*scores: Score, box: tuple[float, float, float, float] = (20, 12, 52, 40)) -> Detector:
    """A detector that finds one box a score, all in the same place."""

    def detect(images: list[npt.NDArray[np.uint8]]) -> list[Detections]:
        bright = [image.mean(2) / 255 for image in images]
        return [
            Detections([list(box)] * len(scores), [score(one) for score in scores], list(range(len(scores))))
            for one in bright
        ]

    return detxai.wrap(detect)


def share(top: int, left: int, height: int, width: int) -> Score:
    """How much of a patch is bright."""
    return lambda bright: float(bright[top : top + height, left : left + width].mean())
