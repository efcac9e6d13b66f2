"""What a small detector itself says, by plain hooks on its own call: nothing here is shared with detxai's engine."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")

import numpy as np
import torch
from faster_rcnns import SmallPyramid, photo
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, box_iou
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.nms import non_max_suppression

import detxai
from detxai.adapters.detector import Detector

Outputs = dict[str, dict[str, Tensor]]  # layer -> entry -> level


def beside(found: detxai.Detections) -> detxai.Detections:
    """Boxes a little off the detected ones, where a plain IoU has one slope: at a detected box itself it has a kink."""
    return detxai.Detections(found.boxes + torch.tensor([-1.5, -2.5, 2.0, 1.0]), found.scores, found.labels)


@dataclass(frozen=True)
class Answer:
    """What one call of the model came to, in pixels of the image.

    Attributes:
        boxes, scores, labels: (n, 4), (n,), (n,) the detections.
        placed: (N, 4) or (N, C, 4) the box of every candidate, for each class.
        probability: (N, C), the first class being ``first_label``.
        within: boxes (N, 4) that say by their overlap whether a candidate can be a box's own; None: all can.
        outputs: of the layers explained.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    placed: Tensor
    probability: Tensor
    within: Tensor | None
    outputs: Outputs
    first_label: int

    def score(self, box: Tensor, label: int) -> Tensor:
        """max IoU * p(label), of those within reach."""
        return self.quality(box, label)[0].max()

    def side(self, box: Tensor, label: int, side: int) -> Tensor:
        """Where the side (0 left, 1 top, 2 right, 3 bottom) of the box of the best candidate lies."""
        quality, placed = self.quality(box, label)
        return placed[quality.argmax(), side]

    def quality(self, box: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """(N,) IoU * p(label) of each candidate, 0 out of reach, and (N, 4) its box for that class."""
        column = label - self.first_label
        placed = self.placed if self.placed.ndim == 2 else self.placed[:, column]
        quality = box_iou(box[None], placed)[0] * self.probability[:, column]
        if self.within is not None:
            quality = quality * (box_iou(box[None], self.within)[0] >= 0.1)
        return quality, placed


def called(model: nn.Module, layers: tuple[str, ...], put_out: Outputs, run: Callable[[], Any]) -> tuple[Any, Outputs]:
    """What ``run`` returns and the layers put out, where some of their entries are put out as ``put_out`` says."""
    seen: Outputs = {}
    handles = []
    for name in layers:

        def exchange(module: nn.Module, given: Any, output: Any, name: str = name) -> Any:
            levels = OrderedDict(output) if isinstance(output, Mapping) else OrderedDict({"": output})
            levels.update(put_out.get(name, {}))
            seen[name] = dict(levels)
            return levels if isinstance(output, Mapping) else levels[""]

        handles.append(model.get_submodule(name).register_forward_hook(exchange))
    try:
        return run(), seen
    finally:
        for handle in handles:
            handle.remove()


class TwoStages:
    """A Faster R-CNN with two levels of four channels."""

    image = photo(3, 48, 64).double()
    layers = ("backbone",)

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.model: Any = FasterRCNN(
                SmallPyramid(2, 4),
                rpn_anchor_generator=AnchorGenerator(((12,), (24,)), ((0.5, 1.0, 2.0),) * 2),
                box_roi_pool=MultiScaleRoIAlign(["fine", "middle"], output_size=3, sampling_ratio=2),
                box_head=TwoMLPHead(4 * 9, 12),
                box_predictor=FastRCNNPredictor(12, 4),
                min_size=48,
                max_size=64,
                rpn_pre_nms_top_n_test=30,
                rpn_post_nms_top_n_test=25,
                box_score_thresh=0.02,
            )
            for layer, spread in (
                (self.model.rpn.head.conv[0][0], 6.0),
                (self.model.rpn.head.cls_logits, 20.0),
                (self.model.rpn.head.bbox_pred, 8.0),
                (self.model.roi_heads.box_predictor.cls_score, 6.0),
            ):
                layer.weight.data.mul_(spread)
        self.model = self.model.eval().double()
        self.wrap = detxai.wrap

    def answer(self, put_out: Outputs) -> Answer:
        kept: dict[str, Any] = {}
        heads = getattr(self.model.roi_heads, "inner", self.model.roi_heads)
        handles = [
            part.register_forward_hook(lambda module, given, output, name=name: kept.update({name: output}))
            for name, part in (("rpn", self.model.rpn), ("predictor", heads.box_predictor))
        ]
        try:
            (found,), outputs = called(self.model, self.layers, put_out, lambda: self.model([self.image]))
        finally:
            for handle in handles:
                handle.remove()
        (proposals,), (logits, deltas) = kept["rpn"][0], kept["predictor"]
        placed = decoded(deltas.unflatten(1, (-1, 4)), proposals, self.image.shape[1:])
        probability = logits.softmax(1)[:, 1:]
        return Answer(
            found["boxes"], found["scores"], found["labels"], placed[:, 1:], probability, proposals, outputs, 1
        )


def decoded(deltas: Tensor, proposals: Tensor, size: torch.Size) -> Tensor:
    """(N, K, 4) boxes from the box head's numbers, after Ren et al., 2015, with torchvision's weights."""
    x1, y1, x2, y2 = proposals[:, None].unbind(-1)
    dx, dy, dw, dh = deltas.unbind(-1)
    width, height = x2 - x1, y2 - y1
    most = math.log(1000 / 16)
    x, y = (x1 + x2) / 2 + dx / 10 * width, (y1 + y2) / 2 + dy / 10 * height
    w, h = width * (dw / 5).clamp(max=most).exp(), height * (dh / 5).clamp(max=most).exp()
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    return corners.clamp(min=0).minimum(corners.new_tensor([size[1], size[0], size[1], size[0]]))


class OneStage:
    """A YOLO with two levels, of which the second reads the first."""

    image = photo(2, 64, 64).double()
    layers = ("model.1", "model.2")
    plan: Mapping[str, Any] = {
        "nc": 3,
        "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
        "head": [[[1, 2], 1, "Detect", ["nc"]]],
    }

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: Any = DetectionModel(dict(self.plan), verbose=False)
            for layer in self.model.modules():
                if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad:
                    layer.weight.data.mul_(3)
            for layers in self.model.model[-1].cv2:  # boxes of a few cells, as trained ones are
                layers[-1].bias.data.copy_((-0.8 * (torch.arange(16.0) - 1).abs()).repeat(4))
            for place, layers in enumerate(self.model.model[-1].cv3):
                layers[-1].weight.data.mul_(0.5)
                layers[-1].bias.data.fill_(-2.0 + place)
        self.model = self.model.eval().double()
        self.wrap = lambda model: detxai.wrap(model, input_size=64)

    def answer(self, put_out: Outputs) -> Answer:
        output, outputs = called(self.model, self.layers, put_out, lambda: self.model(self.image[None])[0])
        (rows,) = non_max_suppression(output.detach().float(), 0.02, 0.7, max_det=300, max_time_img=100.0)
        centre, size, probability = output[0].T.split([2, 2, 3], 1)
        placed = torch.cat([centre - size / 2, centre + size / 2], 1).clamp(0, 64)  # as the predictor cuts boxes
        return Answer(rows[:, :4].clamp(0, 64), rows[:, 4], rows[:, 5].long(), placed, probability, None, outputs, 0)


@torch.no_grad()
def dropped(case: TwoStages | OneStage, clean: Answer, found: detxai.Detections, *, hold: bool = True) -> Tensor:
    """(T, C) what goes away of each box's score with each channel, by a hook that sets it to zero."""
    pairs = [(box.double(), int(label)) for box, label in zip(found.boxes, found.labels)]
    before = torch.stack([clean.score(*pair) for pair in pairs])
    columns = []
    for layer, levels in clean.outputs.items():
        for entry, level in levels.items():
            for channel in range(level.shape[1]):
                changed = level.clone()
                changed[0, channel] = 0
                held = {name: dict(kept) for name, kept in clean.outputs.items()} if hold else {}
                held.setdefault(layer, dict(levels))[entry] = changed
                without = case.answer(held)
                columns.append(before - torch.stack([without.score(*pair) for pair in pairs]))
    return torch.stack(columns, 1)


def traced_back(
    case: TwoStages | OneStage, ask: Callable[[Answer], Tensor], *, hold: bool
) -> list[tuple[Tensor, Tensor]]:
    """Each level (C, h, w) and the gradient of what is asked, by the model's own call.

    Args:
        hold: whether the levels are leaves, so that none reads another; else as the network computes them.
    """
    with torch.no_grad():
        clean = case.answer({})
    parameters = [parameter for parameter in case.model.parameters() if parameter.is_floating_point()]
    wanted = [parameter.requires_grad for parameter in parameters]
    leaves = {n: {e: v.clone().requires_grad_() for e, v in levels.items()} for n, levels in clean.outputs.items()}
    for parameter in parameters:
        parameter.requires_grad_(True)  # so that there is a graph in front of the layers too
    with torch.enable_grad():
        answer = case.answer(leaves if hold else {})
        levels = [level for each in answer.outputs.values() for level in each.values()]
        gradients = torch.autograd.grad(ask(answer), levels, allow_unused=True, materialize_grads=True)
    for parameter, was in zip(parameters, wanted, strict=True):
        parameter.requires_grad_(was)
    return [(level[0].detach(), gradient[0]) for level, gradient in zip(levels, gradients)]


def layer_cam(
    case: TwoStages | OneStage, box: Tensor, label: int, detector: Detector, *, hold: bool = False
) -> np.ndarray[Any, Any]:
    """LayerCAM's formula, with gradients by the model's own call from outputs made into leaves."""
    (geometry,) = detector.prepare(case.image).geometries
    pairs = traced_back(case, lambda answer: answer.score(box, label), hold=hold)
    cells = [(gradient.clamp(min=0) * level).sum(0).clamp(min=0) for level, gradient in pairs]
    maps = torch.stack([geometry.map_to_image(each) for each in cells])
    peaks = maps.amax((1, 2), keepdim=True)
    return (maps * (peaks.max() / peaks.clamp(min=1e-30))).amax(0).numpy()
