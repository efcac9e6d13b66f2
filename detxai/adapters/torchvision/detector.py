"""What torchvision's detectors share: the transform, the backbone with or without a pyramid, and class names."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import Features, Inputs, as_uint8
from detxai.adapters.layers import level_names, skipping
from detxai.adapters.network import NetworkDetector
from detxai.detections import Candidates, Detections, check_score_threshold, checked_label_names, label_names
from detxai.geometry import Geometry
from detxai.images import Image, load_image, to_tensor
from detxai.reshape import ReshapeTransform, fpn_reshape_transform

N_COCO_CLASSES = 91  # torchvision's own builders: COCO's 91-style category ids, background first


class TorchvisionAdapter(NetworkDetector):
    """A torchvision detector; each family computes candidates from the backbone's pyramid.

    Resuming from the pyramid runs the heads only.
    """

    model: Any  # nn.Module types every part of a model as Tensor | Module

    @property
    def default_layers(self) -> tuple[str, ...]:
        return ("backbone",)

    @property
    def reshape_transform(self) -> ReshapeTransform:
        return fpn_reshape_transform

    @abstractmethod
    def _candidates(self, pyramid: Mapping[str, Tensor], geometries: Sequence[Geometry]) -> Candidates:
        """The heads' candidates for a pyramid, level -> (B, C, h, w), of B images or of B versions of one."""

    @property
    def _score_filter(self) -> Any:
        """The module whose ``score_thresh`` drops weak boxes from the model's detections."""
        return self.model

    def _geometry(
        self, image_size: tuple[int, int], input_size: tuple[int, int], resized_size: tuple[int, int]
    ) -> Geometry:
        """Anchors and RoIs put feature ``i`` at ``i * stride``."""
        return Geometry(image_size, input_size, resized_size, cell_centre=0)

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        check_score_threshold(score_threshold)
        pixels = to_tensor(load_image(image)).to(self.device, self.dtype)
        with self.borrowed(), torch.no_grad():
            (output,) = self.model([pixels])
        kept = output["scores"] > score_threshold
        boxes, scores, labels = (output[name][kept] for name in ("boxes", "scores", "labels"))
        return Detections(boxes, scores, labels, self.class_names)

    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        tensors = [to_tensor(array).to(self.device, self.dtype) for array in arrays]
        prepared, _ = self.model.transform(tensors)
        height, width = prepared.tensors.shape[-2:]
        geometries = tuple(
            self._geometry((array.shape[0], array.shape[1]), (height, width), size)
            for array, size in zip(arrays, prepared.image_sizes, strict=True)
        )
        return Inputs(prepared.tensors, geometries, as_uint8(arrays))

    def _forward(self, inputs: Inputs) -> Candidates:
        pyramid = self.model.backbone(inputs.tensor)
        if isinstance(pyramid, Tensor):  # a backbone without a pyramid, as the models' own forward takes it
            pyramid = OrderedDict([("0", pyramid)])
        return self._candidates(pyramid, inputs.geometries)

    def _features(self, inputs: Inputs, layers: tuple[str, ...]) -> Features:
        if layers != self.default_layers:
            return super()._features(inputs, layers)
        outputs = {"backbone": self.model.backbone(inputs.tensor)}
        return Features(level_names(outputs), layers, inputs)

    def _resume(self, features: Features) -> Candidates:
        if features.layers != self.default_layers:
            return super()._resume(features)
        geometries = features.inputs.geometries
        return self._candidates(_pyramid(features), geometries * (features.batch_size // len(geometries)))

    def _putting_out(self, features: Features) -> AbstractContextManager[Any]:
        if features.layers != self.default_layers:
            return super()._putting_out(features)
        pyramid = _pyramid(features)
        has_levels = list(features.levels) != ["backbone"]
        return skipping(self.model, {"backbone": pyramid if has_levels else pyramid["0"]})

    def _anything_found(self, image: npt.NDArray[np.uint8]) -> Detections:
        found, keeper = self.detect(image, 0.0), self._score_filter
        if len(found):
            return found
        threshold, keeper.score_thresh = keeper.score_thresh, 0.0
        try:
            return self.detect(image, 0.0)
        finally:
            keeper.score_thresh = threshold


def _pyramid(features: Features) -> OrderedDict[str, Tensor]:
    """The backbone's output by the model's own names of levels; copies, which a user's head may write into."""
    return OrderedDict((name.partition(":")[2] or "0", level.clone()) for name, level in features.levels.items())


def class_names_of(
    names: Mapping[int, str] | Sequence[str] | None,
    n_classes: int | None,
    coco: Sequence[str],
    *,
    background: bool = True,
) -> dict[int, str]:
    """Label -> name: the given ones, checked; ``coco``'s where none are given and the model has as many classes.

    Args:
        names: label -> name, or the names of labels 0, 1, 2, ...; None: none are given.
        n_classes: number of labels, the background included; None: unknown.
        coco: torchvision's names for its COCO weights.
        background: whether label 0 is the background.
    """
    if names is None:
        return label_names(coco if n_classes == N_COCO_CLASSES else {})
    if n_classes is None:
        return label_names(names)
    return checked_label_names(names, n_classes, background=background)
