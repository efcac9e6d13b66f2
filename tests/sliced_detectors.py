"""Detectors run on slices, and what they answer when every slice is cut and moved by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from faster_rcnns import small_faster_rcnn
from one_stages import small
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.sliced import SlicedAdapter
from detxai.detections import Candidates

Image = npt.NDArray[np.uint8]
SIZE = (70, 93)


def photo(seed: int = 0, size: tuple[int, int] = SIZE) -> Image:
    """A smooth random image."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    tensor = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    large = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear")[0]
    return np.ascontiguousarray(large.permute(1, 2, 0).byte().numpy())


def two_stages() -> Detector:
    """In float64, with proposals and a box for each class."""
    return detxai.wrap(small_faster_rcnn(n_levels=2, width=8, min_size=48, max_size=64).double())


def one_stage() -> Detector:
    return detxai.wrap(small("fcos").double())


class Spots:
    """A plain function that finds a box around what is bright, and counts the images that it is shown.

    The more is bright, the higher is the score. A box reaches a pixel beyond what is bright, also where that leaves
    the image.
    """

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, images: Sequence[Image]) -> list[dict[str, Any]]:
        self.sizes += [(image.shape[0], image.shape[1]) for image in images]
        return [self._found(image.astype(np.float64)) for image in images]

    def _found(self, image: npt.NDArray[np.float64]) -> dict[str, Any]:
        boxes, scores, labels = [], [], []
        for label in range(3):
            rows, columns = np.nonzero(image[..., label] > 200)
            if len(rows):
                boxes.append([columns.min() - 1, rows.min() - 1, columns.max() + 2, rows.max() + 2])
                scores.append(len(rows) / (len(rows) + 40))
                labels.append(label)
        return {"boxes": np.array(boxes).reshape(-1, 4), "scores": scores, "labels": labels}


def with_spots(*spots: tuple[int, int, int, int, int], size: tuple[int, int] = (60, 80)) -> Image:
    """A grey image with bright patches: (top, left, height, width, channel) each."""
    image = np.full((*size, 3), 90, dtype=np.uint8)
    for top, left, height, width, channel in spots:
        image[top : top + height, left : left + width, channel] = 250
    return image


def windows_by_hand(height: int, width: int, high: int, wide: int, down: int, right: int) -> list[tuple[int, ...]]:
    """(left, top, right, bottom) of slices of one size, ``down`` and ``right`` pixels from one to the next."""
    tops = sorted({min(top, height - high) for top in range(0, height - high + down, down)})
    lefts = sorted({min(left, width - wide) for left in range(0, width - wide + right, right)})
    return [(left, top, left + wide, top + high) for top in tops for left in lefts]


def answer_by_hand(detector: SlicedAdapter, image: Image) -> list[Candidates]:
    """The candidates of each slice, asked alone of the detector inside, and then of the whole image."""
    height, width = image.shape[:2]
    windows = detector.slicing.windows((height, width)).tolist()
    if detector.slicing.whole_image and len(windows) > 1:
        windows.append([0, 0, width, height])
    found = []
    for left, top, right, bottom in windows:
        with torch.no_grad():
            own = detector.inner.candidates(np.ascontiguousarray(image[top:bottom, left:right]))
        boxes = own.boxes + torch.tensor([left, top, left, top])
        for axis, edge, is_outer in ((0, left, left == 0), (1, top, top == 0)):
            if not is_outer:
                boxes[..., [axis, axis + 2]] = boxes[..., [axis, axis + 2]].clamp(min=edge)
        for axis, edge, is_outer in ((0, right, right == width), (1, bottom, bottom == height)):
            if not is_outer:
                boxes[..., [axis, axis + 2]] = boxes[..., [axis, axis + 2]].clamp(max=edge)
        moved = None if own.proposals is None else own.proposals + torch.tensor([left, top, left, top])
        found.append(Candidates(boxes, own.class_scores, own.objectness, own.labels, moved, own.final))
    return found


def detections_by_hand(detector: SlicedAdapter, image: Image) -> dict[str, Any]:
    """Everything that ``Spots`` finds in any slice, unmerged, as a plain function may answer."""
    found = answer_by_hand(detector, image)
    labels = [own.labels[own.class_scores[0].argmax(1)] if len(own.labels) else own.labels for own in found]
    boxes, scores = [own.boxes[0, :, 0] for own in found], [own.objectness[0] for own in found]
    return {"boxes": torch.cat(boxes), "scores": torch.cat(scores), "labels": torch.cat(labels)}


def saved(view: Tensor) -> Image:
    """A view (3, H, W) in [0, 1] as the image that a file of it would hold."""
    levels = np.floor(view.permute(1, 2, 0).double().numpy() * 255 + 0.5)
    return levels.clip(0, 255).astype(np.uint8)
