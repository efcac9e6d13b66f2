"""Eigen-CAM: what the features of an image have most in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector, Features, as_uint8
from detxai.adapters.network import require_network
from detxai.detections import Detections
from detxai.engine.eigenvectors import eigh
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Array, Image, load_image, to_tensor
from detxai.reshape import ReshapeTransform


@dataclass(frozen=True)
class EigenCAM:
    """The features of a layer, projected onto their first principal component.

    With X the (pixels x channels) matrix of a level's features, centred, and v the top eigenvector of XᵀX, the map
    is Xv. Cells that are all padding are left out. Every level is projected by itself, scaled to a largest absolute
    value of 1, and brought to the image at its own resolution; then the levels are averaged.

    It asks no question of a box: the map is of the image, the same for every detection and class. Do not crop it to
    a box and call it that box's explanation.

    Args:
        layers: names of the layers; default: those that the adapter chooses.
        reshape_transform: joins each layer's levels to one tensor *before* the projection, so that all levels share one
            component; default: none, every level has its own component and resolution.

    Source: Muhammad & Yeasin, 2020, Eigen-CAM (IJCNN). Differs in the centring (without it the first component is
    nearly the mean activation) and in the sign, which the paper leaves open: see ``principal_projection``.
    """

    name: ClassVar[str] = "eigen_cam"
    asks_about_boxes: ClassVar[bool] = False
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass for the image"

    layers: Sequence[str] | str | None = None
    reshape_transform: ReshapeTransform | None = None

    def __post_init__(self) -> None:
        if self.reshape_transform is not None and not callable(self.reshape_transform):
            kind = type(self.reshape_transform).__name__
            raise TypeError(f"reshape_transform must be callable with a layer's output, got {kind}")

    def __call__(
        self, detector: Detector, image: Image | Features, detections: Detections | None = None
    ) -> list[Explanation]:
        """One explanation, of the image; ``detections`` change nothing.

        Raises:
            LookupError: a layer is unknown.
            ValueError: a layer puts out no feature maps, or they are not finite.
        """
        return self.batch(detector, [image])

    @in_full_precision
    def batch(self, detector: Detector, images: Sequence[Image | Features]) -> list[Explanation]:
        """One explanation for each image, from one forward pass over all images of a size.

        Of a size, because what a batch of several sizes is padded with reaches into the features of its images.
        """
        start = time.perf_counter()
        arrays = [load_image(image.inputs.original if isinstance(image, Features) else image) for image in images]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, array in enumerate(arrays):
            by_size.setdefault(array.shape, []).append(place)
        values: dict[int, Tensor] = {}
        detector = require_network(detector)
        layers = detector.layer_names(self.layers)
        for places in by_size.values():
            known = images[places[0]] if len(places) == 1 else None
            batch = known if isinstance(known, Features) else [_as_image(arrays[place]) for place in places]
            features = detector.features(batch, layers)
            values.update(zip(places, self._values(features), strict=True))
        cost = Cost(time.perf_counter() - start, forward_passes=len(by_size))
        model = {**detector.describe(), "layers": list(layers)}
        return [
            Explanation(values[place].cpu().numpy(), photo, self.name, settings_of(self), cost, model=model)
            for place, photo in enumerate(as_uint8(arrays))
        ]

    def _values(self, features: Features) -> Tensor:
        """(B, H, W) of images of one size."""
        geometry = features.inputs.geometries[0]
        on_image = []
        for level in self._levels(features):
            inside = geometry.cells_of_image((level.shape[-2], level.shape[-1])).to(level.device)
            projection = principal_projection(level, inside)
            peaks = (projection * inside).abs().amax((1, 2), keepdim=True)
            on_image.append(geometry.map_to_image(projection / torch.where(peaks > 0, peaks, 1)))
        return torch.stack(on_image).mean(0)

    def _levels(self, features: Features) -> list[Tensor]:
        if self.reshape_transform is None:
            return list(features.levels.values())
        by_layer: dict[str, dict[str, Tensor]] = {}
        for name, level in features.levels.items():
            layer, _, entry = name.partition(":")
            by_layer.setdefault(layer, {})[entry] = level
        outputs = [levels.get("", levels) for levels in by_layer.values()]
        return [self.reshape_transform(output) for output in outputs]


def _as_image(array: Array) -> Image:
    return array if array.dtype == np.uint8 else to_tensor(array)


def principal_projection(features: Tensor, inside: Tensor | None = None) -> Tensor:
    """Features projected onto their first principal component, one for each image of the batch.

    The smaller of the two Gram matrices is decomposed in float64, on the features' own device: exact, where a
    randomised SVD is not (the first two singular values are often within 10 %), and hundreds of times faster than
    the full SVD. The sign is chosen so that the map goes along with the strength of the features, the
    norm over channels at each place: an eigenvector's own sign is arbitrary, and would erase the object half the time.

    Args:
        features: (B, C, h, w).
        inside: (h, w) bool, the places that count; default: all. The others are projected too.

    Returns:
        (B, h, w), dtype of the features, at least float32; zeros where they do not vary.

    Raises:
        ValueError: ``features`` is not (B, C, h, w), or not finite.

    >>> blob = torch.zeros(1, 3, 4, 4)
    >>> blob[0, :, 1, 2] = torch.tensor([1.0, -2.0, 2.0])
    >>> principal_projection(blob)[0, 1]
    tensor([-0.1875, -0.1875,  2.8125, -0.1875])
    """
    if features.ndim != 4:
        raise ValueError(f"features must have shape (B, C, h, w), got {tuple(features.shape)}")
    # MPS has no float64
    wide = features.float() if features.device.type == "mps" else features.double()
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("features must be finite, got NaN or infinity")
    pixels = wide.flatten(2).transpose(1, 2)
    counting = slice(None) if inside is None or bool(inside.all()) else inside.flatten().nonzero().flatten()
    mean = pixels[:, counting].mean(1, keepdim=True)
    centred = pixels[:, counting] - mean
    if centred.shape[2] <= centred.shape[1]:
        _, vectors = eigh(centred.transpose(1, 2) @ centred)
        component = vectors[..., -1:]
    else:  # the component is the combination of places that the other Gram matrix's vector says
        _, vectors = eigh(centred @ centred.transpose(1, 2))
        component = F.normalize(centred.transpose(1, 2) @ vectors[..., -1:], dim=1)
    projection = ((pixels - mean) @ component).squeeze(-1)
    strength = pixels[:, counting].norm(dim=-1)
    agreement = (projection[:, counting] * (strength - strength.mean(1, keepdim=True))).sum(1, keepdim=True)
    upright = torch.where(agreement < 0, -projection, projection)
    # numpy has no bfloat16
    return upright.unflatten(1, features.shape[2:]).to(torch.promote_types(features.dtype, torch.float32))
