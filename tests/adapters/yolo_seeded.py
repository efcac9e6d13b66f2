"""Every family of ultralytics model with seeded random weights that detect something, and how answers compare."""

from __future__ import annotations

import os

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")

from collections.abc import Iterator
from functools import cache
from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from ultralytics import RTDETR, YOLO
from ultralytics.utils import ASSETS, DEFAULT_CFG_DICT

from detxai.adapters.ultralytics.graph import IMAGE, run_layers
from detxai.adapters.ultralytics.yolo import YOLOAdapter
from detxai.detections import Candidates, Detections

FAMILIES = {
    "v5u": "yolov5n",
    "v8": "yolov8n",
    "v9": "yolov9t",
    "v10": "yolov10n",
    "11": "yolo11n",
    "12": "yolo12n",
    "26": "yolo26n",
    "segment v8": "yolov8n-seg",
    "segment 26": "yolo26n-seg",
    "pose v8": "yolov8n-pose",
    "pose 26": "yolo26n-pose",
    "obb 11": "yolo11n-obb",
    "obb 26": "yolo26n-obb",
    "four levels": "yolov8n-p2",
    "two levels": "yolov3-tiny",
    "rt-detr": "yolov8n-rtdetr",
}
DUAL = ("v10", "26", "segment 26", "pose 26", "obb 26")
SIZE = 160


def bus(width: int = 150, height: int = 200) -> PIL.Image.Image:
    return PIL.Image.open(ASSETS / "bus.jpg").resize((width, height))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small models gain nothing from threads, and on busy cores lose a factor of 40."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def seeded(family: str, *, end2end: bool = False) -> Any:
    """A ``YOLO`` object with random weights, scaled so that some 10 % of the anchors of ``bus`` pass 0.25.

    Batch norms take their statistics from a few images. Random networks magnify rounding, up to whole pixels where
    ultralytics' copy is fused and channels-last, so here the copy computes as the model does; the tests with trained
    weights let it have its way.
    """
    torch.manual_seed(0)
    name = FAMILIES[family]
    yolo = (RTDETR if "rtdetr" in name else YOLO)(f"{name}.yaml")
    yolo.overrides["imgsz"] = SIZE
    if "channels_last" in DEFAULT_CFG_DICT:  # a setting of newer ultralytics alone
        yolo.overrides["channels_last"] = False
    yolo.model.is_fused = lambda: True
    if end2end:
        yolo.overrides["nms"] = False
    adapter = YOLOAdapter(yolo)
    noise = [torch.rand(3, *size) for size in ((40, 100), (90, 30), (8, 8))]
    tensor = adapter.prepare([bus(), *noise]).tensor
    with torch.no_grad():
        _take_statistics(yolo.model, tensor, adapter)
        (_spread_queries if adapter.task == "rtdetr" else _spread_anchors)(yolo.model, tensor)
    return yolo


def _take_statistics(model: nn.Module, tensor: Tensor, adapter: YOLOAdapter) -> None:
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    outputs = run_layers(model, {IMAGE: tensor}, range(len(adapter.sources) - 1), adapter.sources[-1])
    if adapter.task != "rtdetr":
        adapter.head([outputs[place] for place in adapter.sources[-1]])
    model.eval()


def _spread_queries(model: Any, tensor: Tensor) -> None:
    head = model.model[-1]
    for boxes, scores in zip(head.dec_bbox_head, head.dec_score_head):
        boxes.layers[-1].weight.normal_(0, 0.05)
        scores.weight.mul_(4)
        scores.bias.normal_(-3, 0.5)


def _spread_anchors(model: Any, tensor: Tensor) -> None:
    head = model.model[-1]
    for branch in ("", "one2one_"):
        box_layers, class_layers = getattr(head, f"{branch}cv2", None), getattr(head, f"{branch}cv3", None)
        if box_layers is None or class_layers is None:
            continue
        raw = _raw(model, tensor, branch)
        for box, classes in zip(box_layers, class_layers):
            box[-1].weight.mul_((1.0 if head.reg_max > 1 else 0.05) / raw["boxes"].std())
            box[-1].bias.fill_(3.0)  # without DFL these are distances, which must stay positive
            classes[-1].weight.mul_(2 / raw["scores"].std())
            classes[-1].bias.zero_()
        best = _raw(model, tensor[:1], branch)["scores"].amax(1).flatten().sort(descending=True).values
        for classes in class_layers:
            classes[-1].bias.fill_(-float(best[len(best) // 10]) - 1.1)  # sigmoid(-1.1) = 0.25


def _raw(model: nn.Module, tensor: Tensor, branch: str) -> dict[str, Tensor]:
    raw = model(tensor)[1]
    return raw.get("one2one" if branch else "one2many", raw)


def predicted(yolo: Any, source: Any, conf: float = 0.25) -> Detections:
    """What ``YOLO.predict`` itself answers."""
    result = yolo.predict(source, conf=conf, verbose=False)[0]
    yolo.predictor = None  # it holds a lock, which cannot be copied with the seeded model
    found = result.boxes if result.obb is None else result.obb
    return Detections(found.xyxy, found.conf, found.cls, result.names)


def differences(expected: Detections, found: Detections) -> tuple[float, float]:
    """The largest differences of boxes (pixels) and scores between the same detections, in any order."""
    assert len(expected) == len(found)
    if not len(expected):
        return 0.0, 0.0
    apart = (expected.boxes[:, None] - found.boxes).abs().amax(-1)
    scores = (expected.scores[:, None] - found.scores).abs()
    cost = apart + 100 * scores + 1000 * (expected.labels[:, None] != found.labels)
    worst_boxes = worst_scores = 0.0
    for axis in (0, 1):  # both ways, so that two cannot hide behind one
        nearest = cost.argmin(axis, keepdim=True)
        assert float(cost.amin(axis).max()) < 1000, "a detection has no partner of its class"
        worst_boxes = max(worst_boxes, float(apart.gather(axis, nearest).max()))
        worst_scores = max(worst_scores, float(scores.gather(axis, nearest).max()))
    return worst_boxes, worst_scores


def largest_gap(detections: Detections, candidates: Candidates) -> float:
    """How far the worst detection is from its nearest candidate: pixels, plus 100 x the score's difference."""
    scores = candidates.class_scores.detach()[0][:, detections.labels].T
    apart = (candidates.boxes.detach()[0, :, 0] - detections.boxes[:, None]).abs().amax(-1)
    return float((apart + 100 * (scores - detections.scores[:, None]).abs()).amin(1).max())


def same(first: Candidates, second: Candidates) -> float:
    """The largest difference between two sets of candidates, in boxes or scores."""
    boxes = (first.boxes - second.boxes).detach().abs().max()
    return float(torch.maximum(boxes, (first.class_scores - second.class_scores).detach().abs().max()))
