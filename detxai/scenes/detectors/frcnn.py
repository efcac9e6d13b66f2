"""A small Faster R-CNN with a five-level feature pyramid, and the loader of the weights that come with the package."""

from collections import OrderedDict
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detxai.scenes.detectors.weights_file import load_trained
from detxai.scenes.world import CLASS_NAMES, DEFAULT_SIZE

FRCNN_WEIGHTS: Final = Path(__file__).parent / "weights" / "scenes_frcnn.safetensors"

_WIDTHS: Final = (24, 48, 96, 128, 160)
_PYRAMID_CHANNELS: Final = 64
_ANCHORS: Final = (20, 32, 48, 72, 104)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut around them (He et al., 2015, arXiv 1512.03385)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class GlobalContext(nn.Module):
    """Adds to every position what the whole picture holds: `context` and `shortcut` are decided far from the box."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(2 * channels, channels // 2, 1)
        self.expand = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        pooled = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], dim=1)
        return torch.relu(x + self.expand(torch.relu(self.squeeze(pooled))))


def build_frcnn() -> FasterRCNN:
    """An untrained ``torchvision.models.detection.FasterRCNN`` of 2.4 M parameters, in training mode.

    Pyramid levels ``0``, ``1``, ``2``, ``3``, ``pool`` have strides 4 to 64 and 64 channels each. Label 0 is the
    background, so ``class_names`` has one name more than ``CLASS_NAMES``.
    """
    stages = OrderedDict(
        stem=nn.Sequential(nn.Conv2d(3, _WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU()),
        layer1=ResidualBlock(_WIDTHS[0], _WIDTHS[1], 2),
        layer2=_stage(_WIDTHS[1], _WIDTHS[2], n_blocks=2),
        layer3=_stage(_WIDTHS[2], _WIDTHS[3], n_blocks=2),
        layer4=_stage(_WIDTHS[3], _WIDTHS[4], n_blocks=1),
    )
    backbone = BackboneWithFPN(
        nn.Sequential(stages),
        return_layers={f"layer{number}": str(number - 1) for number in (1, 2, 3, 4)},
        in_channels_list=list(_WIDTHS[1:]),
        out_channels=_PYRAMID_CHANNELS,
        extra_blocks=LastLevelMaxPool(),
    )
    model = FasterRCNN(
        backbone,
        min_size=DEFAULT_SIZE,
        max_size=2 * DEFAULT_SIZE,
        image_mean=[0.45, 0.45, 0.45],
        image_std=[0.25, 0.25, 0.25],
        rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in _ANCHORS), ((0.6, 1.0, 1.6),) * len(_ANCHORS)),
        rpn_pre_nms_top_n_train=600,
        rpn_pre_nms_top_n_test=400,
        rpn_post_nms_top_n_train=120,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=128,
        # boxes are 28 to 90 pixels: a canonical 90 spreads them over three levels, the usual 224 over one
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=90, canonical_level=4),
        box_head=TwoMLPHead(_PYRAMID_CHANNELS * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, len(CLASS_NAMES) + 1),
        box_batch_size_per_image=48,
        box_detections_per_img=30,
    )
    model.class_names = ("__background__", *CLASS_NAMES)
    return model


def load_frcnn(path: str | Path | None = None) -> FasterRCNN:
    """The trained Faster R-CNN in eval mode, float32, on the CPU; ``class_names[label]`` names a detection.

    Args:
        path: a ``.safetensors`` file of its weights; None takes the one in the package.

    Raises:
        FileNotFoundError: there is no such file; the message says how to make one.
    """
    file = FRCNN_WEIGHTS if path is None else Path(path)
    return load_trained(build_frcnn, file, "Faster R-CNN", "frcnn")


def _stage(channels_in: int, channels_out: int, n_blocks: int) -> nn.Sequential:
    more = [ResidualBlock(channels_out, channels_out, 1) for _ in range(n_blocks - 1)]
    return nn.Sequential(ResidualBlock(channels_in, channels_out, 2), *more, GlobalContext(channels_out))
