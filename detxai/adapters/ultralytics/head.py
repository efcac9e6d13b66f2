"""Boxes and class scores of every anchor or query of an ultralytics head, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from detxai.adapters.changes.unchanged import change_of
from detxai.adapters.ultralytics.checkpoint import ultralytics_module

SUPPORTED = {
    "Detect": "detect",
    "v10Detect": "detect",
    "Segment": "segment",
    "Segment26": "segment",
    "Pose": "pose",
    "Pose26": "pose",
    "OBB": "obb",
    "OBB26": "obb",
    "RTDETRDecoder": "rtdetr",
}
REFUSED = {
    "Classify": "a classifier puts out no boxes",
    "SemanticSegment": "semantic segmentation puts out no boxes",
    "Depth": "depth estimation puts out no boxes",
    "WorldDetect": "YOLO-World's classes are texts, which its layers read as well",
    "YOLOEDetect": "YOLOE's classes are prompts, which its head reads as well",
    "YOLOESegment": "YOLOE's classes are prompts, which its head reads as well",
    "YOLOESegment26": "YOLOE's classes are prompts, which its head reads as well",
}


def head_task(head: object) -> str:
    """``detect``, ``segment``, ``pose``, ``obb`` or ``rtdetr``.

    Raises:
        TypeError: the head is none of those that detxai explains.
    """
    name = type(head).__name__
    if name in SUPPORTED and type(head).__module__.startswith("ultralytics"):
        return SUPPORTED[name]
    reason = REFUSED.get(name, "it is unknown")
    raise TypeError(
        f"model must have one of ultralytics' heads {', '.join(SUPPORTED)}, got {name}: {reason}; "
        "for a head of your own, register an adapter in the entry-point group detxai.adapters"
    )


def uses_one2one(head: Any, end2end: bool) -> bool:
    """True where the detections come from the one-to-one branch, without non-maximum suppression."""
    if getattr(head, "one2one_cv2", None) is None:
        return False
    return end2end or head.cv2 is None  # fuse() keeps only one branch


def every_anchor(
    head: nn.Module, inputs: list[Tensor], *, one2one: bool, strides: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Boxes and class scores of every anchor, before any selection.

    The same numbers as the head's own, but no attribute of the head is set, masks and keypoints are left out, and
    boxes are decoded in float32 also where the model is in half precision, which rounds to half a pixel beyond 512.

    Args:
        head: a ``Detect`` head or one of its subclasses.
        inputs: the head's inputs, (B, C, h, w) for each level.
        one2one: whether to use the one-to-one branch.
        strides: input pixels per cell, for each level.

    Returns:
        (B, N, 4) xyxy in input pixels, or (B, N, 5) centre, size and angle where the head puts out rotated boxes;
        and class scores (B, N, C).

    Raises:
        ValueError: the head has hooks or methods that are not ultralytics', and its output cannot be read.
    """
    change = change_of(head, {type(head)})
    if change is not None:
        return _called(head, inputs, change)
    detect = ultralytics_module("nn.modules.head").Detect
    head_: Any = head
    branch = head_.one2one if one2one else head_.one2many
    rotated = head_task(head) == "obb"
    if rotated:
        raw = head_.forward_head(inputs, **branch)
    else:  # past the subclass, which would also compute masks or keypoints
        raw = detect.forward_head(head_, inputs, box_head=branch["box_head"], cls_head=branch["cls_head"])
    distances, scores = _single(head_.dfl(raw["boxes"])), _single(raw["scores"]).sigmoid()
    points, cells = anchor_points(inputs, strides, distances.dtype)
    if rotated:
        boxes = _rotated_boxes(distances, points, cells, _single(raw["angle"]))
    else:
        boxes = upright_boxes(distances, points, cells, ordered=head_.reg_max > 1)
    return boxes, scores.transpose(1, 2)


def _called(head: Any, inputs: list[Tensor], change: str) -> tuple[Tensor, Tensor]:
    """Boxes and class scores from the head's own call, for a head that was changed."""
    if head_task(head) != "detect" or getattr(head, "one2one_cv2", None) is not None:
        raise ValueError(
            f"model's head {change}, and of a {type(head).__name__} head what that does to the candidates cannot be "
            "read from its output; remove it while you explain"
        )
    output = head(list(inputs))
    rows = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(rows, Tensor) or rows.ndim != 3 or rows.shape[1] != 4 + head.nc:
        shape = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(f"model's head {change}, and must still output (B, {4 + head.nc}, N), got {shape}")
    boxes, scores = _single(rows).transpose(1, 2).split([4, head.nc], 2)
    return in_order(box_convert(boxes, "cxcywh", "xyxy")), scores


def every_query(head: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """RT-DETR: boxes (B, N, 4) xyxy as fractions of the input, and class scores (B, N, C), of every query."""
    _, (boxes, scores, *_) = head(inputs)
    boxes, scores = _single(boxes[-1]), _single(scores[-1]).sigmoid()
    return box_convert(boxes, "cxcywh", "xyxy"), scores


def anchor_points(inputs: Sequence[Tensor], strides: Sequence[float], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The centre of every cell, (2, N) xy in cells, and its size, (N,) in input pixels.

    ultralytics' ``make_anchors`` gives the same numbers, but from the CPU: a transfer to the device for each pass.
    """
    points, sizes = [], []
    for level, stride in zip(inputs, strides):
        height, width = level.shape[-2:]
        x = torch.arange(width, device=level.device, dtype=dtype) + 0.5
        y = torch.arange(height, device=level.device, dtype=dtype) + 0.5
        points.append(torch.stack([x.repeat(height), y.repeat_interleave(width)]))
        sizes.append(torch.full((height * width,), stride, device=level.device, dtype=dtype))
    return torch.cat(points, 1), torch.cat(sizes)


def upright_boxes(distances: Tensor, points: Tensor, cells: Tensor, *, ordered: bool) -> Tensor:
    """(B, N, 4) xyxy in input pixels, from the distances (B, 4, N) of the four sides in cells.

    Args:
        points, cells: of ``anchor_points``.
        ordered: whether no distance is negative, as DFL has it; otherwise corners are brought in order.
    """
    boxes: Tensor = ultralytics_module("utils.tal").dist2bbox(distances, points[None], xywh=False, dim=1) * cells
    boxes = boxes.transpose(1, 2)
    return boxes if ordered else in_order(boxes)


def in_order(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy with their corners in order: those of heads without DFL may end before they start."""
    first, second = boxes.split(2, -1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _rotated_boxes(distances: Tensor, points: Tensor, cells: Tensor, angle: Tensor) -> Tensor:
    """(B, N, 5) centre, size and angle: the distances are those of the sides in the box's own, turned, frame."""
    boxes = ultralytics_module("utils.tal").dist2rbox(distances, angle, points[None], dim=1)
    return torch.cat([boxes * cells, angle], 1).transpose(1, 2)


def decoding_dtype(dtype: torch.dtype) -> torch.dtype:
    """What boxes are decoded in: half precision is half a pixel apart beyond 512."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _single(tensor: Tensor) -> Tensor:
    return tensor.to(decoding_dtype(tensor.dtype))
