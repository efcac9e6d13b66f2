"""torchvision's Faster R-CNN and its relatives (Mask and Keypoint R-CNN), with any backbone and pyramid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights

from detxai.adapters.changes.own_answer import Changes, changed_parts
from detxai.adapters.detector import Features, Inputs
from detxai.adapters.structure import NoShortcut, TwoStage, renamed
from detxai.adapters.torchvision.detector import TorchvisionAdapter, class_names_of
from detxai.adapters.torchvision.pixels import boxes_to_images, image_list, scales_and_sides
from detxai.adapters.torchvision.two_stage_structure import two_stage
from detxai.detections import Candidates
from detxai.geometry import Geometry


class FasterRCNNAdapter(TorchvisionAdapter):
    """Any ``torchvision.models.detection.FasterRCNN``.

    Candidates are all proposals of the RPN, each with its probability of every class (softmax, the background left
    out), a box for each class, clipped to the image as the model does, and objectness = 1 - p(background).
    Resuming from the pyramid reruns the RPN and the box heads only.

    Args:
        model: the detector.
        class_names: label -> name, 0 being the background; default: COCO's for a model of 91 classes.

    Raises:
        TypeError: ``model`` is no FasterRCNN, or its ``roi_heads`` lack a part that one has.
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
        n_classes = getattr(getattr(heads.box_predictor, "cls_score", None), "out_features", None)
        coco = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        super().__init__(model, class_names_of(class_names, n_classes, coco))

    @property
    def _score_filter(self) -> Any:
        return self.model.roi_heads

    @property
    def _heads(self) -> tuple[str, ...]:
        return ("rpn", "roi_heads.box_roi_pool", "roi_heads.box_head", "roi_heads.box_predictor")

    def structure(self, features: Features) -> TwoStage | NoShortcut | None:
        if features.layers != self.default_layers or len(features.inputs) != 1 or features.batch_size != 1:
            return None
        self._check_candidates(features.inputs)
        if not _has_a_box_for_each_class(self.model.roi_heads.box_predictor):
            return NoShortcut("roi_heads.box_predictor gives no box for each class")
        pyramid = {name.partition(":")[2] or "0": level for name, level in features.levels.items()}
        (geometry,) = features.inputs.geometries
        like = next(iter(pyramid.values()))
        scales, _ = scales_and_sides((geometry,), like.device, like.dtype)
        found = two_stage(self.model, pyramid, image_list((geometry,), like), scales[0])
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
        """Changes of what turns the box heads' output into detections; candidates follow changes of all else."""
        model = self.model
        return changed_parts(
            {"model": model, "transform": model.transform, "roi_heads": model.roi_heads}, "torchvision."
        )

    def _candidates(self, pyramid: Mapping[str, Tensor], geometries: Sequence[Geometry]) -> Candidates:
        sizes = [geometry.resized_size for geometry in geometries]
        like = next(iter(pyramid.values()))
        proposals, _ = self.model.rpn(image_list(geometries, like), pyramid)
        heads = self.model.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(pyramid, proposals, sizes)))
        boxes = heads.box_coder.decode(deltas, proposals)

        counts = [len(p) for p in proposals]
        n_classes, n_boxes = logits.shape[-1], deltas.shape[-1] // 4
        if n_boxes not in (1, n_classes):
            raise ValueError(
                f"model: the box predictor must give 1 or {n_classes} boxes for each proposal, got {n_boxes}"
            )
        probabilities = _stack(logits.softmax(-1), counts)
        placed = _stack(boxes.reshape(-1, n_boxes, 4), counts)
        scales, _ = scales_and_sides(tuple(geometries), like.device, like.dtype)
        return Candidates(
            boxes=boxes_to_images(placed, geometries)[:, :, -max(1, n_boxes - 1) :],  # without the background's
            class_scores=probabilities[..., 1:],
            objectness=probabilities[..., 1:].sum(-1),
            labels=torch.arange(1, n_classes),
            proposals=_stack(torch.cat(proposals), counts) * scales[:, None],
        )


def _has_a_box_for_each_class(predictor: Any) -> bool:
    sizes = [getattr(getattr(predictor, name, None), "out_features", None) for name in ("cls_score", "bbox_pred")]
    return sizes[0] is not None and sizes[1] == 4 * sizes[0]


def _stack(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of several images, one after the other, as (B, N, ...), padded with zeros.

    Args:
        rows: (sum of counts, ...).
        counts: number of rows of each image.
    """
    if len(set(counts)) == 1:
        return rows.unflatten(0, (len(counts), counts[0]))
    return nn.utils.rnn.pad_sequence(list(rows.split(list(counts))), batch_first=True)
