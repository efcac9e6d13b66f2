"""torchvision's RetinaNet, with any backbone, pyramid and anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import RetinaNet, RetinaNet_ResNet50_FPN_Weights
from torchvision.models.detection.retinanet import (
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)

from detxai.adapters.torchvision.one_stage import OneStageAdapter
from detxai.adapters.torchvision.one_stage_structure import Branch, branch_of


class RetinaNetAdapter(OneStageAdapter):
    """Any ``torchvision.models.detection.RetinaNet``.

    Candidates are all anchors, each with the sigmoid of every class, its box clipped to the image, and its highest
    class score as objectness. Labels are the columns of the class logits, from 0.

    Source: Lin et al., 2017, Focal Loss for Dense Object Detection (ICCV), section 4.
    """

    family = "retinanet"
    model_class = RetinaNet
    heads = frozenset({RetinaNetHead, RetinaNetClassificationHead, RetinaNetRegressionHead})

    @staticmethod
    def _coco_names() -> Sequence[str]:
        names: Sequence[str] = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        return names

    def class_scores(self, logits: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        return logits.sigmoid()

    def _branches(self, head: Any, place: int) -> tuple[Branch, Branch]:
        boxes, classes = head.regression_head, head.classification_head
        return (
            branch_of("head.regression_head", boxes.conv, boxes.bbox_reg),
            branch_of("head.classification_head", classes.conv, classes.cls_logits),
        )
