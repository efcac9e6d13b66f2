"""What a small torchvision one-stage detector itself says, by plain hooks on its own call and the papers' formulas."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import torch
from faster_rcnns import SmallPyramid, photo
from one_stages import N_CLASSES, small
from plain_hooks import Answer, Outputs, called
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

import detxai


class AnchorCase:
    """A small RetinaNet, FCOS or SSD of one of ``one_stages.BUILDERS``; the image has the size the model gives it."""

    layers = ("backbone",)
    weights: ClassVar[dict[str, tuple[float, ...]]] = {"RetinaNet": (1.0,) * 4, "SSD": (10.0, 10.0, 5.0, 5.0)}

    def __init__(self, name: str = "retinanet", seed: int = 0, model: Any = None) -> None:
        self.model: Any = (small(name, seed) if model is None else model).double()
        self.family = type(self.model).__name__
        self.image = photo(3, 88, 72).double() if self.family == "SSD" else photo(3, 64, 96).double()
        self.wrap = detxai.wrap

    def answer(self, put_out: Outputs) -> Answer:
        kept: dict[str, Any] = {}
        handles = [
            part.register_forward_hook(lambda module, given, output, name=name: kept.update({name: output}))
            for name, part in (("head", self.model.head), ("anchors", self.model.anchor_generator))
        ]
        try:
            (found,), outputs = called(self.model, self.layers, put_out, lambda: self.model([self.image]))
        finally:
            for handle in handles:
                handle.remove()
        numbers, logits = kept["head"]["bbox_regression"][0], kept["head"]["cls_logits"][0]
        first = 0
        if self.family == "SSD":
            probability, first = logits.exp() / logits.exp().sum(1, keepdim=True), 1
        else:
            probability = 1 / (1 + (-logits).exp())
        if self.family == "FCOS":
            centreness = 1 / (1 + (-kept["head"]["bbox_ctrness"][0]).exp())
            probability = (probability * centreness) ** 0.5
        placed = self._placed(numbers, kept["anchors"][0])
        height, width = self.image.shape[1:]
        placed = placed.clamp(min=0).minimum(placed.new_tensor([width, height, width, height]))
        probability = probability[:, first:]
        return Answer(found["boxes"], found["scores"], found["labels"], placed, probability, None, outputs, first)

    def _placed(self, numbers: Tensor, anchors: Tensor) -> Tensor:
        x1, y1, x2, y2 = anchors.unbind(1)
        x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        if self.family == "FCOS":  # distances to the sides, in anchors
            left, top, right, bottom = numbers.unbind(1)
            return torch.stack([x - left * width, y - top * height, x + right * width, y + bottom * height], 1)
        dx, dy, dw, dh = (number / weight for number, weight in zip(numbers.unbind(1), self.weights[self.family]))
        most = math.log(1000 / 16)
        x, y = x + dx * width, y + dy * height
        width, height = width * dw.clamp(max=most).exp(), height * dh.clamp(max=most).exp()
        return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)


def narrow_fcos() -> AnchorCase:
    """An FCOS whose two levels have four channels, so that ablating all of them one by one is quick."""
    model = small("fcos of two levels")
    norm = partial(nn.GroupNorm, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.backbone = SmallPyramid(2, 4)
        model.head.classification_head = FCOSClassificationHead(4, 1, N_CLASSES, 2, norm_layer=norm)
        model.head.regression_head = FCOSRegressionHead(4, 1, 2, norm_layer=norm)
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data.normal_(0, 1.5 / module.weight[0].numel() ** 0.5)
        model.head.classification_head.cls_logits.bias.data.fill_(-2.0)
        model.head.regression_head.bbox_reg.bias.data.fill_(3.0)
    return AnchorCase(model=model.eval())
