"""Maps that are made without the detector: what a method has to beat, and what it cannot beat."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.evaluate.photos.photo import Truth
from detxai.evaluate.photos.selection import EvaluatedDetections
from detxai.explanation import Cost, Explanation, settings_of
from detxai.geometry import box_gaussians
from detxai.images import Image, load_image, to_uint8


@dataclass(frozen=True)
class RandomMap:
    """Random blobs, another map for each detection: chance.

    Values are uniform on a grid of ``cells x cells``, bilinear between: as smooth as the maps of the methods. White
    noise would be a different rival, which wrecks an image's texture sooner than any map of an object.

    Args:
        cells: of the grid, along each side; None: as many as there are pixels.
        seed: of the draw; the image and the box add to it.
    """

    name: ClassVar[str] = "random"
    asks_about_boxes: ClassVar[bool] = True

    cells: int | None = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cells is not None and (not isinstance(self.cells, int) or self.cells < 1):
            raise ValueError(f"cells must be a whole number from 1, or None, got {self.cells!r}")

    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        photo = to_uint8(load_image(image))
        height, width = photo.shape[:2]
        grid = (height, width) if self.cells is None else (min(self.cells, height), min(self.cells, width))
        explanations = []
        for detection in detections:
            of_box = zlib.crc32(detection.boxes.cpu().numpy().tobytes())
            dice = np.random.default_rng([self.seed, zlib.crc32(photo.tobytes()), of_box])
            values = torch.from_numpy(dice.random((1, 1, *grid), dtype=np.float32))
            smooth = torch.nn.functional.interpolate(values, (height, width), mode="bilinear", align_corners=False)
            explanations.append(_explanation(self, smooth[0, 0], photo, detection))
        return explanations


@dataclass(frozen=True)
class BoxMap:
    """The box itself: 1 inside, 0 outside. It says where the object is, and nothing of why it was found."""

    name: ClassVar[str] = "box"
    asks_about_boxes: ClassVar[bool] = True

    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        return _of_boxes(self, image, detections)

    def map(self, across: Tensor, down: Tensor, box: Sequence[float]) -> Tensor:
        """The map (H, W) of a box, at pixel centres ``across`` (1, W) and ``down`` (H, 1)."""
        x1, y1, x2, y2 = box
        return ((across >= x1) & (across <= x2) & (down >= y1) & (down <= y2)).float()


@dataclass(frozen=True)
class BoxCentre:
    """A Gaussian over the box: ``exp(-(dx / w)^2 - (dy / h)^2)``, with d the distance to the box's centre, w and h half
    its sides. Objects are mostly in the middle of their boxes, and a map earns nothing by saying so."""

    name: ClassVar[str] = "box_centre"
    asks_about_boxes: ClassVar[bool] = True

    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        return _of_boxes(self, image, detections)

    def map(self, across: Tensor, down: Tensor, box: Sequence[float]) -> Tensor:
        """The map (H, W) of a box, at pixel centres ``across`` (1, W) and ``down`` (H, 1)."""
        return box_gaussians((down.shape[0], across.shape[1]), across.new_tensor([list(box)]))[0]


@dataclass(frozen=True)
class PlantedMask:
    """The evidence that was planted, as a map: the correct answer, which no method can beat. Scenes only."""

    name: ClassVar[str] = "planted"
    asks_about_boxes: ClassVar[bool] = True

    def maps(self, detections: EvaluatedDetections, truth: Truth) -> Tensor:
        """(T, H, W), 1 on the evidence of each detection's object and 0 elsewhere.

        Raises:
            ValueError: the image's evidence is not known.
        """
        if truth.evidence is None:
            raise ValueError(
                f"{self.name}: only the evidence of scenes is known; leave this method out, or take --scenes"
            )
        return _of_owners(truth.evidence, detections.object_of)


@dataclass(frozen=True)
class PlantedObject(PlantedMask):
    """The evidence that was planted, and after it the object: what insertion and deletion ask for. Scenes only.

    A mark without the object that bears it is no object, so the evidence alone does badly there. Beyond the evidence
    the map is a hill over it and the object, blurred by 2 % of the image's shorter side: equal values would be
    drawn by lot, and pixels that come in no order wreck a picture.
    """

    name: ClassVar[str] = "planted_object"

    def maps(self, detections: EvaluatedDetections, truth: Truth) -> Tensor:
        """(T, H, W), the hill in [0, 1], and 1 more on the evidence."""
        evidence = super().maps(detections, truth)
        if truth.objects.masks is None:
            raise ValueError(f"{self.name}: the objects have no masks; leave this method out, or take --scenes")
        covered = torch.maximum(evidence, _of_owners(truth.objects.masks, detections.object_of))
        return evidence + torch.stack([_blurred(mask) for mask in covered])


def _blurred(mask: Tensor) -> Tensor:
    import cv2  # a whole library for one baseline: imported only where it is used

    sigma = 0.02 * min(mask.shape)
    return torch.from_numpy(cv2.GaussianBlur(mask.numpy(), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT))


def _of_owners(masks: Tensor, owners: Sequence[int]) -> Tensor:
    """(T, H, W), each owner's mask (G, H, W) as numbers; zeros where there is none, -1."""
    nowhere = masks.new_zeros(masks.shape[1:])
    return torch.stack([masks[owner] if owner >= 0 else nowhere for owner in owners]).float()


def _of_boxes(method: BoxMap | BoxCentre, image: Image, detections: Detections) -> list[Explanation]:
    photo = to_uint8(load_image(image))
    across, down = torch.arange(photo.shape[1])[None, :] + 0.5, torch.arange(photo.shape[0])[:, None] + 0.5
    return [
        _explanation(method, method.map(across, down, detection.boxes[0].tolist()), photo, detection)
        for detection in detections
    ]


def _explanation(
    method: RandomMap | BoxMap | BoxCentre, values: Tensor, photo: np.ndarray, detection: Detections
) -> Explanation:
    return Explanation(values.numpy(), photo, method.name, settings_of(method), Cost(0.0, 0), detection)
