"""The bundled detectors behind one function: pictures in, boxes out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from detxai.scenes.detectors.frcnn import load_frcnn
from detxai.scenes.detectors.rtdetr import load_rtdetr
from detxai.scenes.detectors.yolo import load_yolo
from detxai.scenes.scene import Image
from detxai.scenes.training.dataset import image_tensor


class Found(NamedTuple):
    """What a detector found in one picture: ``boxes`` (N, 4) xyxy pixels, ``scores`` (N,), ``labels`` (N,) from 0."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


Detect = Callable[[Sequence[Image]], list[Found]]

SCORE_FLOOR = 0.01
"""Detections below it are dropped: low enough that a score can fall by half and still be seen."""


def load_scene_detector(model: str, weights: Path, device: str = "cpu") -> Detect:
    """The detector of a weights file as a function of pictures; ``model`` is "frcnn", "yolo" or "rtdetr".

    Raises:
        ImportError: the package it needs is not installed.
        FileNotFoundError: there are no such weights.
    """
    if model == "frcnn":
        return frcnn_detector(load_frcnn(weights).to(device))
    if model == "rtdetr":
        return rtdetr_detector(load_rtdetr(weights).to(device))
    return yolo_detector(load_yolo(weights), device=device)


def frcnn_detector(model: Any, batch_size: int = 16) -> Detect:
    """``load_frcnn()`` as a function of pictures, uint8 (H, W, 3) RGB."""
    model.roi_heads.score_thresh = SCORE_FLOOR
    device = next(model.parameters()).device

    def detect(images: Sequence[Image]) -> list[Found]:
        found = []
        for start in range(0, len(images), batch_size):
            batch = [image_tensor(image).to(device) for image in images[start : start + batch_size]]
            with torch.inference_mode():
                for result in model(batch):
                    boxes, scores, labels = (result[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
                    found.append(Found(boxes, scores, labels - 1))
        return found

    return detect


def rtdetr_detector(model: Any, batch_size: int = 16) -> Detect:
    """``load_rtdetr()`` as a function of pictures, uint8 (H, W, 3) RGB, all of one size."""
    device = next(model.parameters()).device

    def detect(images: Sequence[Image]) -> list[Found]:
        found = []
        for start in range(0, len(images), batch_size):
            batch = torch.stack([image_tensor(image) for image in images[start : start + batch_size]]).to(device)
            with torch.inference_mode():
                outputs = model(batch)
                # as transformers' post_process_object_detection: the best of all pairs of a query and a class
                scores, pairs = outputs.logits.sigmoid().flatten(1).topk(outputs.logits.shape[1])
                queries, labels = pairs // outputs.logits.shape[2], pairs % outputs.logits.shape[2]
                boxes = outputs.pred_boxes.gather(1, queries[..., None].expand(-1, -1, 4))
                corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)
                corners *= torch.tensor([batch.shape[3], batch.shape[2]] * 2, device=device)
            for of_image in zip(corners.cpu().numpy(), scores.cpu().numpy(), labels.cpu().numpy(), strict=True):
                kept = of_image[1] >= SCORE_FLOOR
                found.append(Found(*(values[kept] for values in of_image)))
        return found

    return detect


def yolo_detector(yolo: Any, batch_size: int = 16, device: str = "cpu") -> Detect:
    """``load_yolo()`` as a function of pictures, uint8 (H, W, 3) RGB."""

    def detect(images: Sequence[Image]) -> list[Found]:
        found = []
        for start in range(0, len(images), batch_size):
            batch = [np.ascontiguousarray(image[..., ::-1]) for image in images[start : start + batch_size]]
            size = int(images[start].shape[0])
            for result in yolo.predict(batch, imgsz=size, conf=SCORE_FLOOR, max_det=30, device=device, verbose=False):
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
