"""Random weights with a spread like trained ones, so that the time of a pass is realistic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops.misc import FrozenBatchNorm2d


def spread_like_trained(model: FasterRCNN, pixels: Tensor, seed: int = 0) -> None:
    """Give a randomly initialised Faster R-CNN scores that differ, so that the time of a pass is realistic.

    Batch-norm statistics are estimated on the image, and the last layers' weights scaled to a trained-like spread:
    without that no proposal differs from another and nothing is detected.

    Args:
        model: changed in place.
        pixels: (3, H, W) in [0, 1].
        seed: for the predictors' weights.
    """
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    hooks = [norm.register_forward_pre_hook(_estimate_statistics) for norm in norms]
    try:
        with torch.no_grad():
            prepared, _ = model.eval().transform([pixels])
            pyramid = model.backbone(prepared.tensors)
    finally:
        for hook in hooks:
            hook.remove()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        hidden = [model.rpn.head.conv(level) for level in pyramid.values()]
        spread = max(float(model.rpn.head.cls_logits(h).std()) for h in hidden)
        model.rpn.head.cls_logits.weight.mul_(2.0 / spread)
        moves = max(float(model.rpn.head.bbox_pred(h).std()) for h in hidden)
        model.rpn.head.bbox_pred.weight.mul_(0.3 / moves)
        heads = model.roi_heads
        proposals, _ = model.rpn(prepared, pyramid)
        logits, deltas = heads.box_predictor(
            heads.box_head(heads.box_roi_pool(pyramid, proposals, prepared.image_sizes))
        )
        heads.box_predictor.cls_score.weight.mul_(1.5 / float(logits.std(0).mean()))
        heads.box_predictor.bbox_pred.weight.mul_(0.5 / float(deltas.std(0).mean()))
        favoured = torch.randint(1, logits.shape[1], (10,), generator=generator)
        heads.box_predictor.cls_score.bias[favoured] += 1.5


def _estimate_statistics(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    (x,) = inputs
    norm.running_mean.copy_(x.mean((0, 2, 3)))
    norm.running_var.copy_(x.var((0, 2, 3)).clamp(min=1e-6))
