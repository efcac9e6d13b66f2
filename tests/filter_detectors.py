"""Detectors of one convolution, whose score is a known function of its channels: what is best can be computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.adapters.detector import Inputs, unresized_inputs
from detxai.adapters.network import NetworkDetector
from detxai.detections import Candidates, Detections
from detxai.images import Image
from detxai.reshape import ReshapeTransform

Score = Callable[[Tensor], Tensor]  # from channels (B, C, h, w) to the box's score (B,) in [0, 1]


class FilterDetector(NetworkDetector):
    """One box, of class 0, whose score is ``score`` of what ``filters`` puts out; class 1 has the rest.

    Images are read as they are, in [0, 1].
    """

    family = "filters"

    def __init__(self, filters: nn.Conv2d, score: Score, box: tuple[float, float, float, float]) -> None:
        model = nn.Module()
        model.filters = filters
        super().__init__(model.eval(), {0: "seen", 1: "rest"})
        self.score, self.box = score, box

    @property
    def default_layers(self) -> tuple[str, ...]:
        return ("filters",)

    @property
    def reshape_transform(self) -> ReshapeTransform:
        return lambda output: output

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        with torch.no_grad():
            candidates = self.candidates(image)
        scores = candidates.class_scores[0, 0]
        kept = scores > score_threshold
        boxes = candidates.boxes[0, 0].expand(2, -1)
        return Detections(boxes[kept], scores[kept], candidates.labels[kept], self.class_names)

    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        return unresized_inputs(arrays)

    def _forward(self, inputs: Inputs) -> Candidates:
        model: Any = self.model
        score = self.score(model.filters(inputs.tensor))
        scores = torch.stack([score, 1 - score], 1)[:, None]
        boxes = torch.tensor(self.box, dtype=torch.float32).expand(len(score), 1, 1, 4)
        return Candidates(boxes, scores, scores.amax(2), torch.tensor([0, 1]))


def whole_image_filter(size: int, seed: int = 0) -> nn.Conv2d:
    """A filter as large as the image, of random weights."""
    filters = nn.Conv2d(3, 1, size, bias=False)
    weights = torch.randn(filters.weight.shape, generator=torch.Generator().manual_seed(seed))
    filters.weight = nn.Parameter(weights / weights.norm())
    return filters


def linear_detector(size: int = 12) -> FilterDetector:
    """The logit of its box is linear in the pixels: the best attack is known."""
    filters = whole_image_filter(size)
    return FilterDetector(filters, lambda out: (out[:, 0, 0, 0] + 1).sigmoid(), (2, 2, 10, 10))


def grey(size: int = 12) -> npt.NDArray[np.uint8]:
    return np.full((size, size, 3), 128, dtype=np.uint8)
