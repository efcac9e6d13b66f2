"""torchvision's Faster R-CNN and its relatives (Mask and Keypoint R-CNN), with any backbone and pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.image_list import ImageList

from detxai.adapters.adapter import Adapter, Features, Inputs, as_uint8
from detxai.adapters.faster_rcnn_structure import two_stage
from detxai.adapters.layers import level_names
from detxai.adapters.own_answer import Changes, changed_parts
from detxai.adapters.structure import NoShortcut, TwoStage, renamed
from detxai.detections import Candidates, Detections, name_of_each, names_of_classes
from detxai.geometry import Geometry
from detxai.images import Image, load_image, to_tensor
from detxai.reshape import ReshapeTransform, fpn_reshape_transform

N_COCO_CLASSES = 91  # torchvision's own builders: COCO's 91-style category ids, background first


class FasterRCNNAdapter(Adapter):
    """Any ``torchvision.models.detection.FasterRCNN``.

    Candidates are all proposals of the RPN, each with its probability of every class (softmax, the background left
    out), a box for each class, clipped to the image as the model does, and objectness = 1 - p(background).
    Resuming from the pyramid reruns the RPN and the box heads only.

    Args:
        model: the detector.
        class_names: label -> name, 0 being the background; default: COCO's for a model of 91 classes.

    Raises:
        TypeError: ``model`` is no FasterRCNN, or its ``roi_heads`` have not the parts of one.
    """

    family = "faster_rcnn"
    model: Any  # nn.Module types every part of a model as Tensor | Module

    def __init__(self, model: nn.Module, *, class_names: Mapping[int, str] | Sequence[str] | None = None) -> None:
        if not isinstance(model, FasterRCNN):
            raise TypeError(f"model must be a torchvision FasterRCNN, got {type(model).__name__}")
        heads: Any = model.roi_heads
        missing = [
            part for part in ("box_roi_pool", "box_head", "box_predictor", "box_coder") if not hasattr(heads, part)
        ]
        if missing:
            raise TypeError(
                f"model.roi_heads must have {', '.join(missing)}, as torchvision's have, got {type(heads).__name__}"
            )
        super().__init__(model, _class_names(model, class_names))

    @property
    def default_layers(self) -> tuple[str, ...]:
        return ("backbone",)

    @property
    def reshape_transform(self) -> ReshapeTransform:
        return fpn_reshape_transform

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
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
            Geometry((array.shape[0], array.shape[1]), (height, width), size, cell_centre=0)
            for array, size in zip(arrays, prepared.image_sizes, strict=True)
        )
        return Inputs(prepared.tensors, geometries, as_uint8(arrays))

    def _forward(self, inputs: Inputs) -> Candidates:
        pyramid = self.model.backbone(inputs.tensor)
        if isinstance(pyramid, Tensor):  # a backbone without a pyramid, as FasterRCNN.forward takes it
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
        # copies: a head of the user's may write into what it reads
        pyramid = OrderedDict((name.partition(":")[2] or "0", level.clone()) for name, level in features.levels.items())
        geometries = features.inputs.geometries
        return self._candidates(pyramid, geometries * (features.batch_size // len(geometries)))

    def structure(self, features: Features) -> TwoStage | NoShortcut | None:
        if features.layers != self.default_layers or len(features.inputs) != 1 or features.batch_size != 1:
            return None
        self._check_candidates(features.inputs)
        if not _has_a_box_for_each_class(self.model.roi_heads.box_predictor):
            return NoShortcut("roi_heads.box_predictor gives no box for each class")
        pyramid = {name.partition(":")[2] or "0": level for name, level in features.levels.items()}
        (geometry,) = features.inputs.geometries
        like = next(iter(pyramid.values()))
        scales, _ = _scales_and_sides((geometry,), like.device, like.dtype)
        found = two_stage(self.model, pyramid, _image_list((geometry,), like), scales[0])
        return renamed(found, dict(zip(pyramid, features.levels, strict=True)))

    def proposals(self, inputs: Inputs) -> Tensor:
        """(n, 4) the RPN's proposals in one image, xyxy in input pixels."""
        put_out: list[Tensor] = []
        with self.borrowed(), torch.no_grad():
            handle = self.model.rpn.register_forward_hook(lambda module, given, output: put_out.extend(output[0]))
            try:
                self._forward(inputs)
            finally:
                handle.remove()
        (proposals,) = put_out
        return proposals

    @contextmanager
    def holding_proposals(self, proposals: object | None) -> Iterator[None]:
        if proposals is None:
            yield
            return
        with self.borrowed():  # every image of the batch gets its own list entry, as the RPN gives them
            handle = self.model.rpn.register_forward_hook(
                lambda module, given, output: ([proposals] * len(output[0]), output[1])
            )
            try:
                yield
            finally:
                handle.remove()

    def changed_parts(self) -> Changes:
        """Of what makes detections of the box heads' output; the heads, the RPN and the backbone are followed."""
        model = self.model
        return changed_parts(
            {"model": model, "transform": model.transform, "roi_heads": model.roi_heads}, "torchvision."
        )

    def _anything_found(self, image: npt.NDArray[np.uint8]) -> Detections:
        found, heads = self.detect(image, 0.0), self.model.roi_heads
        if len(found):
            return found
        threshold, heads.score_thresh = heads.score_thresh, 0.0
        try:
            return self.detect(image, 0.0)
        finally:
            heads.score_thresh = threshold

    def _candidates(self, pyramid: Mapping[str, Tensor], geometries: Sequence[Geometry]) -> Candidates:
        sizes = [geometry.resized_size for geometry in geometries]
        like = next(iter(pyramid.values()))
        proposals, _ = self.model.rpn(_image_list(geometries, like), pyramid)
        heads = self.model.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(pyramid, proposals, sizes)))
        boxes = heads.box_coder.decode(deltas, proposals)

        counts = [len(p) for p in proposals]
        n_classes, n_boxes = logits.shape[-1], deltas.shape[-1] // 4
        if n_boxes not in (1, n_classes):
            raise ValueError(f"model: the box predictor must give 1 or {n_classes} boxes a proposal, got {n_boxes}")
        probabilities = _stack(logits.softmax(-1), counts)
        placed = _stack(boxes.reshape(-1, n_boxes, 4), counts)
        scales, sides = _scales_and_sides(tuple(geometries), like.device, like.dtype)
        clipped = torch.minimum(placed.clamp(min=0), sides[:, None, None])
        return Candidates(
            boxes=(clipped * scales[:, None, None])[:, :, -max(1, n_boxes - 1) :],  # without the background's
            class_scores=probabilities[..., 1:],
            objectness=probabilities[..., 1:].sum(-1),
            labels=torch.arange(1, n_classes),
            proposals=_stack(torch.cat(proposals), counts) * scales[:, None],
        )


def _image_list(geometries: Sequence[Geometry], like: Tensor) -> ImageList:
    """What the RPN wants to know of the images: how many there are, and their sizes."""
    sizes = [geometry.resized_size for geometry in geometries]
    return ImageList(like.new_zeros(1).expand(len(sizes), 3, *geometries[0].input_size), sizes)


def _class_names(model: FasterRCNN, names: Mapping[int, str] | Sequence[str] | None) -> dict[int, str]:
    n_classes = getattr(getattr(model.roi_heads.box_predictor, "cls_score", None), "out_features", None)
    if names is None:
        names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"] if n_classes == N_COCO_CLASSES else {}
    elif n_classes is not None:
        return names_of_classes(names, n_classes, background=True)
    return name_of_each(names)


def _has_a_box_for_each_class(predictor: Any) -> bool:
    sizes = [getattr(getattr(predictor, name, None), "out_features", None) for name in ("cls_score", "bbox_pred")]
    return sizes[0] is not None and sizes[1] == 4 * sizes[0]


@lru_cache(maxsize=32)  # the same few images are explained many times: no transfer to the device for each pass
def _scales_and_sides(
    geometries: tuple[Geometry, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(B, 4) each: original pixels per input pixel for x1, y1, x2, y2; and the width and height (twice) to clip at.

    B is 1 for versions of one image.
    """
    if len(set(geometries)) == 1:
        geometries = geometries[:1]
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        original = torch.tensor([geometry.image_size for geometry in geometries], dtype=torch.float32, device="cpu")
        resized = torch.tensor([geometry.resized_size for geometry in geometries], dtype=torch.float32, device="cpu")
        scales = (original / resized).to(dtype)  # rounded as torchvision's ``resize_boxes`` does
        return scales.flip(1).repeat(1, 2).to(device), resized.flip(1).repeat(1, 2).to(device, dtype)


def _stack(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of images that follow one another, as (B, N, ...): short images are filled up with zeros."""
    if len(set(counts)) == 1:
        return rows.unflatten(0, (len(counts), counts[0]))
    return nn.utils.rnn.pad_sequence(list(rows.split(list(counts))), batch_first=True)
