"""Any detector, run on overlapping slices of an image: SAHI's sliced inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

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

SLICES_AT_ONCE = 8  # of a single image; views of an image are batched to the device by whoever asks for many
JOINING_FROM = 0.1  # score threshold below which SAHI suppresses instead of joining, since joined boxes would grow


class SlicedAdapter(Detector):
    """A detector that sees an image slice by slice.

    ``detect`` merges what the detector inside finds in each slice: boxes moved to the image, then joined or
    suppressed as the ``Slicing`` says. A single slice is the image as it is, and its boxes are left as they are (SAHI
    would merge even these).

    Candidates are those of all slices together, moved to the image, before any merging. A box is cut off where its
    slice ends and the image goes on; only detectors that report boxes beyond the image that they were shown are
    changed by that. A joined box is asked about as it is, with its own corners: what is found of it is its best single
    candidate, so that an object which no slice and no whole image shows in one piece scores by the largest piece.

    Views of an image are made at its own resolution, and rounded to whole levels where the image has such.

    Args:
        inner: from ``detxai.wrap``; any detector that is not sliced itself.
        slicing: how images are cut and boxes merged.

    Raises:
        TypeError: ``inner`` is no wrapped detector.
        ValueError: it is sliced already.

    Source: Akyon et al., 2022, Slicing Aided Hyper Inference (ICIP; arXiv 2202.06934).
    """

    family = "sliced"
    sees_parts = True

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
        if score_threshold < JOINING_FROM:
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


def _all_parts(parts: ImageParts, pixels: torch.Tensor) -> Candidates:
    """The candidates of B images of one size, from all their parts."""
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
