"""The two detectors behind one function: pictures in, boxes out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from detxai.scenes.dataset import image_tensor
from detxai.scenes.scene import Image


class Found(NamedTuple):
    """What a detector found in one picture: ``boxes`` (N, 4) xyxy pixels, ``scores`` (N,), ``labels`` (N,) from 0."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


Detect = Callable[[Sequence[Image]], list[Found]]

SCORE_FLOOR = 0.01
"""Detections below it are dropped: low enough that a score can fall by half and still be seen."""


def frcnn_detector(model: Any, batch_size: int = 16) -> Detect:
    """``load_frcnn()`` as a function of pictures, uint8 (H, W, 3) RGB."""
    model.roi_heads.score_thresh = SCORE_FLOOR

    def detect(images: Sequence[Image]) -> list[Found]:
        found = []
        for start in range(0, len(images), batch_size):
            batch = [image_tensor(image) for image in images[start : start + batch_size]]
            with torch.inference_mode():
                for result in model(batch):
                    labels = result["labels"].numpy() - 1
                    found.append(Found(result["boxes"].numpy(), result["scores"].numpy(), labels))
        return found

    return detect


def yolo_detector(yolo: Any, batch_size: int = 16) -> Detect:
    """``load_yolo()`` as a function of pictures, uint8 (H, W, 3) RGB."""

    def detect(images: Sequence[Image]) -> list[Found]:
        found = []
        for start in range(0, len(images), batch_size):
            batch = [np.ascontiguousarray(image[..., ::-1]) for image in images[start : start + batch_size]]
            size = int(images[start].shape[0])
            for result in yolo.predict(batch, imgsz=size, conf=SCORE_FLOOR, max_det=30, device="cpu", verbose=False):
                boxes = result.boxes.cpu().numpy()
                found.append(Found(boxes.xyxy, boxes.conf, boxes.cls.astype(np.int64)))
        return found

    return detect


def score_times_iou(found: Found, box: npt.NDArray[np.float32], label: int) -> tuple[float, float]:
    """Best ``score x IoU`` with ``box`` among the detections of this label, and the IoU there; zeros when none."""
    mine = found.labels == label
    if not mine.any():
        return 0.0, 0.0
    boxes, scores = found.boxes[mine], found.scores[mine]
    left_top, right_bottom = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = np.clip(right_bottom - left_top, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    iou = shared / (areas + (box[2:] - box[:2]).prod() - shared)
    best = int((scores * iou).argmax())
    return float(scores[best] * iou[best]), float(iou[best])
