"""A detector run on overlapping slices of an image: SAHI's sliced inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from detxai.adapters.detector import Detector, Inputs, unresized_inputs
from detxai.adapters.network import module_of
from detxai.adapters.sliced.merging import merged
from detxai.adapters.sliced.parts import ImageParts
from detxai.adapters.sliced.rows import side_by_side, stacked
from detxai.adapters.sliced.slicing import Slicing
from detxai.detections import Candidates, Detections, check_score_threshold
from detxai.images import Image

SLICES_AT_ONCE = 8  # of a single image; callers with many views of an image batch them to fit the device
MIN_JOIN_THRESHOLD = 0.1  # score threshold below which SAHI suppresses instead of joining: joined boxes would grow


class SlicedAdapter(Detector):
    """A detector that runs on the slices of an image.

    ``detect`` merges the detections of all slices: boxes are moved to the image, then joined or suppressed as the
    ``Slicing`` says. A single slice is the image itself, and its boxes stay as they are (SAHI would merge even these).

    Candidates are those of all slices together, moved to the image, before any merging. A box is clipped where its
    slice ends and the image goes on; that changes only detectors that report boxes beyond the image they were given. A
    joined box keeps its own corners as the question: its score is that of its best single candidate, so an object that
    no slice and no whole image shows in one piece scores by its largest piece.

    Perturbed images are made at the image's own resolution, and rounded to 8 bits where the image has 8 bits.

    Args:
        inner: from ``detxai.wrap``; any detector but a sliced one.
        slicing: how images are cut and boxes merged.

    Raises:
        TypeError: ``inner`` is no wrapped detector.
        ValueError: ``inner`` is sliced already.

    Source: Akyon et al., 2022, Slicing Aided Hyper Inference (ICIP; arXiv 2202.06934).
    """

    family = "sliced"

    def __init__(self, inner: Detector, slicing: Slicing) -> None:
        if not isinstance(inner, Detector):
            raise TypeError(f"inner must be a detector from detxai.wrap, got {type(inner).__name__}")
        if isinstance(inner, SlicedAdapter):
            raise ValueError("slices: the detector is sliced already; wrap the detector inside it, detector.inner")
        self.inner = inner
        self.slicing = slicing
        self.class_names = inner.class_names

    @property
    def model(self) -> nn.Module:
        """The network inside; a black box has none."""
        return module_of(self.inner)

    @property
    def network(self) -> nn.Module | None:
        return self.inner.network

    @property
    def model_name(self) -> str:
        return self.inner.model_name

    @property
    def device(self) -> torch.device:
        return self.inner.device

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        with self.inner.borrowed():
            yield

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        check_score_threshold(score_threshold)
        inputs = self.prepare(image)
        parts = self.parts(inputs)
        pixels = parts.pixels(inputs.tensor[0])
        names: dict[int, str] = {}
        boxes, scores, labels = [], [], []
        with self.borrowed():
            for part in range(len(parts)):
                (cut,) = parts.images(parts.crop(pixels, part)[None])
                with self.inner.borrowed_afresh():
                    found = self.inner.detect(cut, score_threshold).to("cpu")
                if len(parts) == 1:
                    return found
                boxes.append(parts.placed(found.boxes, part))
                scores.append(found.scores)
                labels.append(found.labels)
                names |= found.class_names
        together = Detections(torch.cat(boxes), torch.cat(scores), torch.cat(labels), names | self.class_names)
        slicing = self.slicing
        if score_threshold < MIN_JOIN_THRESHOLD:
            slicing = replace(slicing, merge="nms", match_metric="iou")
        return merged(together, slicing)

    def parts(self, inputs: Inputs) -> ImageParts:
        """How the first of these images is cut.

        Raises:
            ValueError: it is too small for so many slices.
        """
        size = inputs.geometries[0].image_size
        return ImageParts.of_image(
            self.inner,
            self.slicing.windows(size),
            size,
            whole_image=self.slicing.whole_image,
            eight_bit=not inputs.originals,
        )

    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        for size in {(array.shape[0], array.shape[1]) for array in arrays}:
            self.slicing.windows(size)  # refuses what is too small, before any work
        inputs = unresized_inputs(arrays)
        return replace(inputs, tensor=inputs.tensor.to(self.device))

    def _forward(self, inputs: Inputs) -> Candidates:
        """All parts of all images, without gradients."""
        groups: dict[tuple[int, int], list[int]] = {}
        for place, geometry in enumerate(inputs.geometries):
            groups.setdefault(geometry.image_size, []).append(place)
        found: list[Candidates] = []
        for (height, width), places in groups.items():
            parts = self.parts(replace(inputs, geometries=(inputs.geometries[places[0]],)))
            pixels = parts.pixels(inputs.tensor[places, :, :height, :width])
            found.append(_all_parts(parts, pixels))
        order = np.argsort([place for places in groups.values() for place in places])
        return side_by_side(stacked(found), torch.from_numpy(order)[:, None])

    def describe(self) -> dict[str, Any]:
        """The detector inside, and how its images are cut and its boxes merged."""
        return {**self.inner.describe(), "slices": asdict(self.slicing)}

    def fingerprint(self) -> str | None:
        """Of the detector inside."""
        return self.inner.fingerprint()

    @property
    def _why_no_network(self) -> str:
        return (
            "detector is sliced, and has layers and gradients only within each slice: pixel_evidence, region_shapley "
            "and d_rise explain its boxes across slices; CAMs that ask about a box (layer_cam, ablation_cam) run on "
            "the slice that holds it best; for anything else take detector.inner and a slice as its image"
        )


def is_sliced(detector: Detector) -> TypeGuard[SlicedAdapter]:
    """Whether a detector runs on slices of an image, so that it has ``parts``."""
    return isinstance(detector, SlicedAdapter)


def parts_of(detector: Detector, inputs: Inputs) -> ImageParts | None:
    """The parts of the first of these images that a sliced detector runs on; None for any other detector."""
    return detector.parts(inputs) if isinstance(detector, SlicedAdapter) else None


def _all_parts(parts: ImageParts, pixels: torch.Tensor) -> Candidates:
    """The candidates of B images of one size, found in all their parts."""
    n_images = len(pixels)
    table = np.empty((n_images, len(parts)), dtype=np.int64)
    found: list[Candidates] = []
    n_rows = 0
    for group in parts.of_one_size():
        for image in range(n_images):
            for start in range(0, len(group), SLICES_AT_ONCE):
                some = group[start : start + SLICES_AT_ONCE]
                crops = torch.stack([parts.crop(pixels[image], part) for part in some])
                found.append(parts.candidates(crops, torch.tensor(some, device="cpu")))
                table[image, some] = np.arange(n_rows, n_rows + len(some))
                n_rows += len(some)
    return side_by_side(stacked(found), torch.from_numpy(table))
