"""torchvision's FCOS, with any backbone, pyramid and strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import FCOS, FCOS_ResNet50_FPN_Weights
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from detxai.adapters.torchvision.one_stage import OneStageAdapter
from detxai.adapters.torchvision.one_stage_structure import Branch, branch_of, side_by_side
from detxai.adapters.torchvision.pixels import boxes_to_images
from detxai.geometry import Geometry


class FCOSAdapter(OneStageAdapter):
    """Any ``torchvision.models.detection.FCOS``.

    Candidates are all cells, each with ``sqrt(sigmoid(class) * sigmoid(centreness))`` for every class, its box clipped
    to the image, and its highest class score as objectness. Labels are the columns of the class logits, from 0.

    Source: Tian et al., 2020, FCOS: A simple and strong anchor-free object detector (arXiv 2006.09214), section 3;
    the square root is torchvision's.
    """

    family = "fcos"
    model_class = FCOS
    heads = frozenset({FCOSHead, FCOSClassificationHead, FCOSRegressionHead})
    outputs = ("cls_logits", "bbox_regression", "bbox_ctrness")
    n_numbers = 5  # four distances and the centreness, which comes of the branch of the boxes

    @staticmethod
    def _coco_names() -> Sequence[str]:
        names: Sequence[str] = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        return names

    def class_scores(self, logits: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        product = logits.sigmoid()
        if "bbox_ctrness" in others:
            product = product * others["bbox_ctrness"].sigmoid()
        # a root of 0 has an infinite slope, which would make the gradients of its neighbours NaN
        is_zero = product == 0
        return product.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)

    def decode(self, numbers: Tensor, anchors: Tensor) -> Tensor:
        boxes: Tensor = self.model.box_coder.decode(numbers, anchors)
        return boxes

    def _branches(self, head: Any, place: int) -> tuple[Branch, Branch]:
        boxes, classes = head.regression_head, head.classification_head
        return (
            side_by_side(
                branch_of("head.regression_head", boxes.conv, boxes.bbox_reg),
                branch_of("head.regression_head", boxes.conv, boxes.bbox_ctrness),
            ),
            branch_of("head.classification_head", classes.conv, classes.cls_logits),
        )

    def _offsets(self, numbers: Tensor) -> Tensor:
        return numbers[..., :4].relu()

    def _others(self, numbers: Tensor) -> Mapping[str, Tensor]:
        return {"bbox_ctrness": numbers[..., 4:]}

    def _reach(
        self, levels: Mapping[str, Tensor], anchors: Tensor, geometry: Geometry
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None:
        """A cell's box holds the middle of its anchor: distances are never negative."""
        sizes = [level[0, 0].numel() for level in levels.values()]
        if sum(sizes) != len(anchors):
            return None
        middles = ((anchors[:, :2] + anchors[:, 2:]) / 2).repeat(1, 2)
        points = boxes_to_images(middles[None, :, None], (geometry,))[0, :, 0]
        whole = anchors.new_tensor([0.0, 0.0, *geometry.image_size[::-1]]).expand_as(points)
        return (
            dict(zip(levels, points.split(sizes), strict=True)),
            dict(zip(levels, whole.split(sizes), strict=True)),
        )
