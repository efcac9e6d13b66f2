"""Small Faster R-CNNs with seeded weights, spread out like trained ones."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

LEVEL_NAMES = ("fine", "middle", "coarse", "pool", "far")


class SmallPyramid(nn.Module):
    """Strided convolutions, one level each: any number, names and widths."""

    def __init__(self, n_levels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width
        strides = [4] + [2] * (n_levels - 1)
        channels = [3] + [width] * n_levels
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 2 * s - 1, stride=s, padding=s - 1), nn.BatchNorm2d(b), nn.SiLU())
            for a, b, s in zip(channels, channels[1:], strides)
        )

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        levels = OrderedDict()
        for name, block in zip(LEVEL_NAMES, self.blocks):
            levels[name] = x = block(x)
        return levels


def small_faster_rcnn(
    seed: int = 0, n_levels: int = 3, width: int = 16, n_classes: int = 5, pooled: int | None = None, **settings: Any
) -> FasterRCNN:
    """A Faster R-CNN in eval mode whose scores are neither all alike nor all certain.

    Args:
        pooled: how many of the levels the box heads read; default: all but the last, as in torchvision's own.
    """
    settings = {
        "min_size": 96,
        "max_size": 160,
        "rpn_pre_nms_top_n_test": 60,
        "rpn_post_nms_top_n_test": 120,  # more than the finest level alone has
        "box_detections_per_img": 20,
        "box_score_thresh": 0.02,
        **settings,
    }
    names = list(LEVEL_NAMES[: max(1, n_levels - 1) if pooled is None else pooled])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FasterRCNN(
            SmallPyramid(n_levels, width),
            num_classes=n_classes,
            rpn_anchor_generator=AnchorGenerator(
                tuple((8 * 2**i,) for i in range(n_levels)), ((0.5, 1.0, 2.0),) * n_levels
            ),
            box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
            **settings,
        )
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            for layer, spread in (
                (model.rpn.head.conv[0][0], 6.0),
                (model.rpn.head.cls_logits, 20.0),
                (model.rpn.head.bbox_pred, 8.0),
                (model.roi_heads.box_predictor.cls_score, 6.0),
                (model.roi_heads.box_predictor.bbox_pred, 6.0),
            ):
                layer.weight.mul_(spread)
    return model.eval()


def photo(seed: int = 0, height: int = 90, width: int = 130) -> Tensor:
    """A float (3, height, width) image in [0, 1]: smooth blobs, not white noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return (smooth + 0.1 * torch.rand(3, height, width, generator=generator)).clamp(0, 1)
