"""Faster R-CNN's network as data for the ablation engine, where it is torchvision's own and not a user's variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import Conv2dNormActivation

from detxai.adapters.structure import BoxStage, ProposalStage, TwoStage


def two_stage(model: FasterRCNN, pyramid: Mapping[str, Tensor], images: ImageList, to_image: Tensor) -> TwoStage | None:
    """The structure behind a pyramid of one image, or None where a part is not torchvision's own.

    Args:
        pyramid: the model's own level names -> (1, C, h, w).
        images: one image.
        to_image: as in ``TwoStage``.
    """
    rpn, heads = model.rpn, model.roi_heads
    pool = heads.box_roi_pool
    own = (
        (rpn, RegionProposalNetwork),
        (rpn.head, RPNHead),
        (rpn.anchor_generator, AnchorGenerator),
        (heads, RoIHeads),
        (pool, MultiScaleRoIAlign),
    )
    if any(not isinstance(part, kind) or type(part).forward is not kind.forward for part, kind in own):
        return None
    # a user's hook on a part would see, or change, what the shortcuts leave out
    if any(_has_hooks(module) for part in (rpn, heads) for module in part.modules()):
        return None
    proposals = _proposal_stage(rpn, pyramid, images)
    boxes = _box_stage(heads, pool, pyramid, images)
    if proposals is None or boxes is None:
        return None
    return TwoStage(proposals, boxes, to_image, images.image_sizes[0])


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _proposal_stage(
    rpn: RegionProposalNetwork, pyramid: Mapping[str, Tensor], images: ImageList
) -> ProposalStage | None:
    blocks = list(rpn.head.conv)
    if not blocks or not all(isinstance(block, Conv2dNormActivation) for block in blocks):
        return None
    first, *rest = blocks[0]
    plain = isinstance(first, nn.Conv2d) and first.groups == 1 and first.padding_mode == "zeros"
    if not plain or first.stride != (1, 1) or first.dilation != (1, 1) or isinstance(first.padding, str):
        return None
    after = nn.Sequential(*rest, *blocks[1:])
    per_level = _anchors_per_level(rpn.anchor_generator, pyramid, images)

    def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
        return rpn.box_coder.decode_single(deltas, anchors)

    return ProposalStage(
        convolution=first,
        after=after,
        pointwise=all(isinstance(module, nn.ReLU) for module in after),
        objectness=rpn.head.cls_logits,
        deltas=rpn.head.bbox_pred,
        anchors=dict(zip(pyramid, per_level, strict=True)),
        decode=decode,
        n_before_nms=rpn._pre_nms_top_n["testing"],
        n_after_nms=rpn._post_nms_top_n["testing"],
        nms_threshold=rpn.nms_thresh,
        score_threshold=rpn.score_thresh,
        min_size=rpn.min_size,
    )


def _anchors_per_level(generator: AnchorGenerator, pyramid: Mapping[str, Tensor], images: ImageList) -> list[Tensor]:
    levels = list(pyramid.values())
    (anchors,) = generator(images, levels)
    per_place = generator.num_anchors_per_location()
    sizes = [level.shape[-2] * level.shape[-1] * n for level, n in zip(levels, per_place, strict=True)]
    return list(anchors.split(sizes))


def _box_stage(
    heads: RoIHeads, pool: MultiScaleRoIAlign, pyramid: Mapping[str, Tensor], images: ImageList
) -> BoxStage | None:
    if pool.sampling_ratio <= 0:  # as many samples as a box has cells: no fixed number to gather
        return None
    names = [name for name in pyramid if name in pool.featmap_names]
    whole = torch.tensor([[0.0, 0.0, *images.image_sizes[0][::-1]]]).to(next(iter(pyramid.values())))
    pool(dict(pyramid), [whole], images.image_sizes)  # sets the scales, from the first image the model ever saw
    scales, mapper = pool.scales, pool.map_levels
    if scales is None or mapper is None:
        return None

    def level_of(proposals: Tensor) -> Tensor:
        if len(names) == 1:
            return torch.zeros(len(proposals), dtype=torch.int64, device=proposals.device)
        return mapper([proposals])

    def decode(deltas: Tensor, proposals: Tensor) -> Tensor:
        return heads.box_coder.decode_single(deltas, proposals).reshape(len(proposals), -1, 4)

    classes = getattr(getattr(heads.box_predictor, "cls_score", None), "out_features", None)
    if classes is None:
        return None
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


def _first_linear(head: nn.Module) -> tuple[nn.Linear, Callable[[Tensor], Tensor]] | None:
    if type(head) is not TwoMLPHead:
        return None
    first, second = head.fc6, head.fc7
    if not isinstance(first, nn.Linear) or not isinstance(second, nn.Linear):
        return None
    return first, lambda linear: F.relu(second(F.relu(linear)))
