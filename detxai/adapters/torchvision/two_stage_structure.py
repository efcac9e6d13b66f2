"""Faster R-CNN's network as data for the ablation engine, where it is torchvision's own and not a user's variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import Conv2dNormActivation, FrozenBatchNorm2d

from detxai.adapters.changes.unchanged import ChangedPartError, require_unchanged
from detxai.adapters.structure import BoxStage, NoShortcut, ProposalStage, TwoStage

# layers that treat each image, and after pooling each proposal, by itself
LAYERS = frozenset({
    nn.Sequential, nn.Conv2d, nn.Linear, nn.Flatten, nn.Identity, nn.Dropout, nn.BatchNorm2d, FrozenBatchNorm2d,
    nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, Conv2dNormActivation,
})  # fmt: skip
PROPOSING = LAYERS | {RegionProposalNetwork, RPNHead, AnchorGenerator}
CLASSIFYING = LAYERS | {TwoMLPHead, FastRCNNConvFCHead, FastRCNNPredictor}


def two_stage(
    model: FasterRCNN, pyramid: Mapping[str, Tensor], images: ImageList, to_image: Tensor
) -> TwoStage | NoShortcut:
    """The structure behind the pyramid of one image, where every part that it describes is torchvision's own.

    Args:
        pyramid: the model's own level names -> (1, C, h, w).
        images: one image.
        to_image: as in ``TwoStage``.
    """
    try:
        _require_torchvisions_own(model)
        proposals = _proposal_stage(model.rpn, pyramid, images)
        boxes = _box_stage(model.roi_heads, pyramid, images)
    except ChangedPartError as change:
        return NoShortcut(str(change))
    return TwoStage(proposals, boxes, to_image, images.image_sizes[0])


def _require_torchvisions_own(model: Any) -> None:
    rpn, heads = model.rpn, model.roi_heads
    require_unchanged("rpn", rpn, PROPOSING)
    require_unchanged("rpn.box_coder", rpn.box_coder, {BoxCoder})
    require_unchanged("roi_heads", heads, {RoIHeads}, inside=False)  # masks and keypoints are no part of the answer
    require_unchanged("roi_heads.box_coder", heads.box_coder, {BoxCoder})
    require_unchanged("roi_heads.box_roi_pool", heads.box_roi_pool, {MultiScaleRoIAlign})
    require_unchanged("roi_heads.box_head", heads.box_head, CLASSIFYING)
    require_unchanged("roi_heads.box_predictor", heads.box_predictor, CLASSIFYING)
    for name, module in (*rpn.named_modules(prefix="rpn"), *heads.box_head.named_modules(prefix="roi_heads.box_head")):
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is None:
            raise ChangedPartError(f"{name} normalises by the batch")


def _proposal_stage(rpn: Any, pyramid: Mapping[str, Tensor], images: ImageList) -> ProposalStage:
    head = rpn.head
    blocks: list[Any] = list(head.conv) if isinstance(head.conv, nn.Sequential) else []
    if type(head) is not RPNHead or not blocks or type(blocks[0]) is not Conv2dNormActivation:
        raise ChangedPartError("rpn.head.conv is no sequence of convolutions with activations")
    first, *rest = blocks[0]
    if not _keeps_size(first):
        raise ChangedPartError(f"rpn.head.conv starts with {first}, which is no plain convolution of stride 1")
    for name in ("cls_logits", "bbox_pred"):
        layer = getattr(head, name)
        if not _keeps_size(layer) or layer.kernel_size != (1, 1):
            raise ChangedPartError(f"rpn.head.{name} is {layer}, which is no 1x1 convolution")
    after = nn.Sequential(*rest, *blocks[1:])
    per_level = _anchors_per_level(rpn.anchor_generator, pyramid, images)

    def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
        return rpn.box_coder.decode_single(deltas, anchors)

    return ProposalStage(
        convolution=first,
        after=after,
        pointwise=all(type(module) is nn.ReLU for module in after),
        objectness=head.cls_logits,
        deltas=head.bbox_pred,
        anchors=dict(zip(pyramid, per_level, strict=True)),
        decode=decode,
        n_before_nms=rpn._pre_nms_top_n["testing"],
        n_after_nms=rpn._post_nms_top_n["testing"],
        nms_threshold=rpn.nms_thresh,
        score_threshold=rpn.score_thresh,
        min_size=rpn.min_size,
    )


def _keeps_size(layer: nn.Module) -> bool:
    """Whether it is a convolution with an output for every place, and zeros beyond the edge."""
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.stride == layer.dilation == (1, 1)
        and all(side % 2 == 1 for side in layer.kernel_size)
        and layer.padding == tuple(side // 2 for side in layer.kernel_size)
        and layer.padding_mode == "zeros"
    )


def _anchors_per_level(generator: AnchorGenerator, pyramid: Mapping[str, Tensor], images: ImageList) -> list[Tensor]:
    levels = list(pyramid.values())
    (anchors,) = generator(images, levels)
    per_place = generator.num_anchors_per_location()
    sizes = [level.shape[-2] * level.shape[-1] * n for level, n in zip(levels, per_place, strict=True)]
    return list(anchors.split(sizes))


def _box_stage(heads: Any, pyramid: Mapping[str, Tensor], images: ImageList) -> BoxStage:
    pool = heads.box_roi_pool
    if pool.sampling_ratio <= 0:  # as many samples as a box has cells: no fixed number to gather
        raise ChangedPartError(f"roi_heads.box_roi_pool has a sampling_ratio of {pool.sampling_ratio}, not a fixed one")
    predictor = heads.box_predictor
    if type(predictor) is not FastRCNNPredictor or type(predictor.cls_score) is not nn.Linear:
        raise ChangedPartError("roi_heads.box_predictor is no FastRCNNPredictor with a linear cls_score")
    classes = predictor.cls_score.out_features
    if getattr(predictor.bbox_pred, "out_features", None) != 4 * classes:
        raise ChangedPartError("roi_heads.box_predictor has no box for each class")
    names = [name for name in pyramid if name in pool.featmap_names]
    whole = torch.tensor([[0.0, 0.0, *images.image_sizes[0][::-1]]]).to(next(iter(pyramid.values())))
    pool(dict(pyramid), [whole], images.image_sizes)  # sets the scales, from the first image the model ever saw
    scales, mapper = pool.scales, pool.map_levels

    def level_of(proposals: Tensor) -> Tensor:
        if len(names) == 1:
            return torch.zeros(len(proposals), dtype=torch.int64, device=proposals.device)
        return mapper([proposals])

    def decode(deltas: Tensor, proposals: Tensor) -> Tensor:
        return heads.box_coder.decode_single(deltas, proposals).reshape(len(proposals), -1, 4)

    linear = _first_linear(heads.box_head)
    return BoxStage(
        levels=dict(zip(names, scales, strict=True)),
        level_of=level_of,
        output_size=(pool.output_size[0], pool.output_size[1]),
        sampling_ratio=pool.sampling_ratio,
        head=heads.box_head,
        predict=heads.box_predictor,
        decode=decode,
        n_classes=classes - 1,
        first_linear=linear[0] if linear else None,
        after_linear=linear[1] if linear else None,
    )


def _first_linear(head: Any) -> tuple[nn.Linear, Callable[[Tensor], Tensor]] | None:
    if type(head) is not TwoMLPHead or type(head.fc6) is not nn.Linear:
        return None
    second: Callable[[Tensor], Tensor] = head.fc7
    return head.fc6, lambda linear: F.relu(second(F.relu(linear)))
