"""Small RetinaNets, FCOSs and SSDs with seeded weights, spread out like trained ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from faster_rcnns import SmallPyramid
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

N_CLASSES = 4
SETTINGS: dict[str, Any] = {"score_thresh": 0.02, "detections_per_img": 30, "topk_candidates": 60}


class OneLevel(nn.Module):
    """A backbone without a pyramid: it puts out one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.convolution = nn.Conv2d(3, width, 15, stride=8, padding=7)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.convolution(x))


def small_retinanet(n_levels: int = 3, width: int = 8, norm: Any = None, backbone: Any = None) -> RetinaNet:
    backbone = backbone or SmallPyramid(n_levels, width)
    generator = AnchorGenerator(
        tuple((10 * 2**i, 14 * 2**i) for i in range(n_levels)), ((0.5, 1.0, 2.0),) * n_levels
    )  # six anchors a cell
    head = RetinaNetHead(backbone.out_channels, 6, N_CLASSES, norm_layer=norm)
    sizes = {"min_size": 64, "max_size": 96}
    return RetinaNet(backbone, N_CLASSES, anchor_generator=generator, head=head, **sizes, **SETTINGS)


def small_fcos(n_levels: int = 3, width: int = 32) -> FCOS:
    generator = AnchorGenerator(tuple((4 * 2**i,) for i in range(n_levels)), ((1.0,),) * n_levels)
    sizes = {"min_size": 64, "max_size": 96}
    head = FCOSHead(width, 1, N_CLASSES, 2)
    return FCOS(SmallPyramid(n_levels, width), N_CLASSES, anchor_generator=generator, head=head, **sizes, **SETTINGS)


def small_ssd(n_levels: int = 3, width: int = 8, steps: list[int] | None = None, *, lite: bool = False) -> SSD:
    ratios = [[2], [2, 3], [2], [3]][:n_levels]
    generator = DefaultBoxGenerator(ratios, steps=steps)
    anchors, norm = generator.num_anchors_per_location(), partial(nn.BatchNorm2d, eps=1e-3)
    head = SSDLiteHead([width] * n_levels, anchors, N_CLASSES, norm) if lite else None
    return SSD(_WithChannels(n_levels, width), generator, (72, 88), N_CLASSES, head=head, **SETTINGS)


class _WithChannels(SmallPyramid):
    """SSD wants the channels of each level."""

    def __init__(self, n_levels: int, width: int) -> None:
        super().__init__(n_levels, width)
        self.out_channels: Any = [width] * n_levels


BUILDERS: dict[str, Callable[[], Any]] = {
    "retinanet": small_retinanet,
    "retinanet of one tensor": lambda: small_retinanet(1, backbone=OneLevel(8)),
    "retinanet with batch norm": lambda: small_retinanet(2, 12, norm=nn.BatchNorm2d),
    "retinanet with group norm": lambda: small_retinanet(2, norm=partial(nn.GroupNorm, 4)),
    "fcos": small_fcos,
    "fcos of two levels": lambda: small_fcos(2, 64),
    "ssd": small_ssd,
    "ssd with steps": lambda: small_ssd(2, 12, steps=[4, 8]),
    "ssdlite": lambda: small_ssd(lite=True),
    "ssdlite of four levels": lambda: small_ssd(4, 6, lite=True),
    "narrow retinanet": lambda: small_retinanet(2, 4),
    "narrow ssdlite": lambda: small_ssd(2, 4, lite=True),
}


def small(name: str, seed: int = 0) -> Any:
    """One of ``BUILDERS`` in eval mode, whose scores are neither all alike nor all certain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BUILDERS[name]()
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            for module in model.head.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.normal_(0, 1.5 / module.weight[0].numel() ** 0.5)
                if isinstance(module, nn.BatchNorm2d):
                    for buffer, lowest, highest in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)):
                        assert buffer is not None
                        buffer.uniform_(lowest, highest)
            if hasattr(model.head.classification_head, "cls_logits"):
                model.head.classification_head.cls_logits.bias.fill_(-4.0)
            if isinstance(model, FCOS):
                model.head.regression_head.bbox_reg.bias.fill_(3.0)  # a box without area overlaps nothing
    return model.eval()


def small_ssdlite() -> Any:
    """For ``--model``."""
    return small("ssdlite")
