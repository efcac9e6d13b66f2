"""torchvision's SSD and SSDLite, with any backbone and default boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights
from torchvision.models.detection.ssd import SSD, SSDClassificationHead, SSDHead, SSDRegressionHead
from torchvision.models.detection.ssdlite import SSDLiteClassificationHead, SSDLiteHead, SSDLiteRegressionHead

from detxai.adapters.changes.unchanged import ChangedPartError
from detxai.adapters.torchvision.one_stage import OneStageAdapter
from detxai.adapters.torchvision.one_stage_structure import Branch, branch_of


class SSDAdapter(OneStageAdapter):
    """Any ``torchvision.models.detection.ssd.SSD``, SSDLite among them.

    Candidates are all default boxes, each with its probability of every class (softmax, the background left out),
    its box clipped to the image, and objectness = 1 - p(background). Label 0 is the background.

    Source: Liu et al., 2016, SSD: Single Shot MultiBox Detector (ECCV), section 2; Sandler et al., 2018, MobileNetV2
    (CVPR), section 6.2, for SSDLite.
    """

    family = "ssd"
    model_class = SSD
    heads = frozenset({
        SSDHead, SSDClassificationHead, SSDRegressionHead,
        SSDLiteHead, SSDLiteClassificationHead, SSDLiteRegressionHead,
    })  # fmt: skip
    background = True

    @staticmethod
    def _coco_names() -> Sequence[str]:
        names: Sequence[str] = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
        return names

    @staticmethod
    def _n_classes(model: Any) -> int | None:
        return getattr(getattr(model.head, "classification_head", None), "num_columns", None)

    def class_scores(self, logits: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        return logits.softmax(-1)[..., 1:]

    def _branches(self, head: Any, place: int) -> tuple[Branch, Branch]:
        boxes, classes = head.regression_head, head.classification_head
        if place >= min(len(boxes.module_list), len(classes.module_list)):
            raise ChangedPartError(f"head has no layers for the level at place {place}")
        return (
            branch_of(f"head.regression_head.module_list.{place}", boxes.module_list[place]),
            branch_of(f"head.classification_head.module_list.{place}", classes.module_list[place]),
        )
