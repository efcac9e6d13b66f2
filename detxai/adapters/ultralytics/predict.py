"""From an ultralytics head's output to the detections that its predictor reports."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from detxai.adapters.detector import Inputs
from detxai.adapters.ultralytics.checkpoint import ultralytics_module
from detxai.adapters.ultralytics.head import in_order
from detxai.adapters.ultralytics.letterbox import boxes_to_images, fractions_to_images, rotated_to_images


@dataclass(frozen=True)
class PredictSettings:
    """The settings that ``YOLO.predict`` would take from the model; the field names are ultralytics'.

    Attributes:
        input_size: ``imgsz``, as the user or the checkpoint wrote it.
        end2end: whether to use the one-to-one branch of a dual head; None: as the network itself is set.
    """

    input_size: Any
    iou: float
    max_det: int
    classes: Any
    agnostic_nms: bool
    retina_masks: bool
    end2end: bool | None

    @classmethod
    def from_model(cls, network: nn.Module, overrides: Mapping[str, Any] | None) -> PredictSettings:
        """The settings of a network, and of the ``YOLO`` object around it if there is one."""
        own: Any = getattr(network, "args", None) or {}
        own = own if isinstance(own, Mapping) else vars(own)
        chosen = {"imgsz": own["imgsz"]} if own.get("imgsz") else {}
        if overrides is not None:
            chosen = dict(overrides)
        values = ultralytics_module("cfg").get_cfg(overrides={**chosen, "mode": "predict"})
        return cls(
            input_size=values.imgsz,
            iou=values.iou,
            max_det=values.max_det,
            classes=values.classes,
            agnostic_nms=values.agnostic_nms,
            retina_masks=values.retina_masks,
            end2end=None if overrides is None or not _predict_chooses_branch() else values.nms is False,
        )


def _predict_chooses_branch() -> bool:
    """Newer predictors choose a dual head's branch by ``nms``; older ones leave it as the network has it."""
    return "end2end" in inspect.signature(ultralytics_module("nn.autobackend").AutoBackend.__init__).parameters


def predicted_boxes(
    output: Any,
    inputs: Inputs,
    score_threshold: float,
    settings: PredictSettings,
    *,
    task: str,
    n_classes: int,
    end2end: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4) xyxy in image pixels, scores (N,) and labels (N,) of one image, as ultralytics' predictor has them.

    Args:
        output: the head's, after ``set_head``: what comes before its raw maps.
        inputs: the image.
        score_threshold: boxes with lower scores are dropped.
        settings: of the predictor.
        task: of ``head_task``.
        n_classes: of the head.
        end2end: whether the output comes from a one-to-one branch.
    """
    if task == "rtdetr":
        return _queries(output[0].float(), inputs, settings, score_threshold)
    output, prototypes = output if task == "segment" else (output, None)
    rows = ultralytics_module("utils.nms").non_max_suppression(
        output.float(),
        score_threshold,
        settings.iou,
        settings.classes,
        settings.agnostic_nms,
        max_det=settings.max_det,
        nc=n_classes,
        max_time_img=math.inf,  # else a slow machine silently gets fewer boxes
        rotated=task == "obb",
        end2end=end2end,
    )[0]
    if task == "obb":
        boxes = rotated_to_images(rows[None, :, [0, 1, 2, 3, -1]], inputs.geometries)[0]
        return boxes, rows[:, 4], rows[:, 5].long()
    if prototypes is not None:
        rows = rows[_has_mask(rows, prototypes[0], inputs, settings)]
    boxes = boxes_to_images(in_order(rows[None, :, :4]), inputs.geometries)[0]
    return boxes, rows[:, 4], rows[:, 5].long()


def set_head(head: Any, settings: PredictSettings, end2end: bool) -> None:
    """Set the head as the predictor sets its own copy; ``borrowed`` restores the user's values."""
    if getattr(head, "one2one_cv2", None) is not None and head.cv2 is not None:
        head.end2end = end2end
    if end2end:
        head.max_det = max(settings.max_det, 300)
        head.agnostic_nms = settings.agnostic_nms


def _queries(
    rows: Tensor, inputs: Inputs, settings: PredictSettings, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """RT-DETR's detections, from rows (K, 6): centre and size as fractions of the image, score, label."""
    kept = rows[:, 4] > score_threshold
    if settings.classes is not None:
        classes = torch.as_tensor(settings.classes, device=rows.device)
        kept &= (rows[:, 5:6] == classes).any(1)
    rows = rows[kept][: settings.max_det]
    fractions = box_convert(rows[:, :4], "cxcywh", "xyxy")
    return fractions_to_images(fractions[None], inputs.geometries)[0], rows[:, 4], rows[:, 5].long()


def _has_mask(rows: Tensor, prototypes: Tensor, inputs: Inputs, settings: PredictSettings) -> Tensor:
    """Which rows have a mask with at least one pixel: the predictor drops the others."""
    ops = ultralytics_module("utils.ops")
    geometry = inputs.geometries[0]
    if settings.retina_masks:
        boxes = ops.scale_boxes(geometry.input_size, rows[:, :4].clone(), geometry.image_size)
        masks = ops.process_mask_native(prototypes, rows[:, 6:], boxes, geometry.image_size)
    else:
        masks = ops.process_mask(prototypes, rows[:, 6:], rows[:, :4], geometry.input_size, upsample=True)
    return masks.flatten(1).amax(1) > 0 if len(masks) else rows[:, 4] > 0
