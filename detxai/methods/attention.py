"""Attention: which places of the image the query behind a box read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.attention import Attention as QueryAttention
from detxai.adapters.attention import attention_of
from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.geometry import box_iou
from detxai.images import Image
from detxai.methods.results import explanations


@dataclass(frozen=True)
class Attention:
    """Where the query behind a box read the image. This is not yet what made it find the box.

    A query detector reads the image through attention: each layer of its decoder adds to each query a weighted sum of
    values at the places of the encoder's levels. ``values`` is that weight, averaged over layers and heads and summed
    over levels, per pixel of the image. The values sum to about 1, less what was read outside the image. Which weights
    are taken depends on the detector:

    - dense attention (DETR, Conditional and DAB DETR): those of the cross-attention's softmax;
    - deformable attention (Deformable DETR, RT-DETR, D-FINE, RF-DETR, LW-DETR): those of the sampled points, each
      shared between the four cells around it;
    - YOLOS: those of the query's own token for the patches, in every block.

    The query of a box is the one with the largest product of IoU and class score. If no query overlaps the box, the map
    is flat.

    Attention is not cause. It shows where values were read, and not what they held or what they changed. The encoder
    has mixed the whole image before, and a place that is read much may change nothing. The map uses neither the score
    nor the class: ask another method what the box depends on.

    Source: Carion et al., 2020, DETR (arXiv 2005.12872), figure 6; Zhu et al., 2021, Deformable DETR (arXiv
    2010.04159), figure 6. Differs in the average over all layers, where they show the last.
    """

    name: ClassVar[str] = "attention"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "attention"
    shows: ClassVar[str] = "attention"
    passes: ClassVar[str] = "1 pass for the image, and a backward step through each attention layer a box"

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection; ``details`` has the number of its query and how well it matches.

        Raises:
            TypeError: the detector has no attention of queries.
            ValueError: the model runs without gradients, which tell the weights; or a label is wrong.
        """
        started = time.perf_counter()
        if len(detections) == 0:
            return []
        with detector.borrowed():
            attention = attention_of(detector, image)
            matches = [best_query(attention, detection) for detection in detections]
            maps = [map_on_image(attention, match["query"]) for match in matches]
        return explanations(
            self, detector, attention.inputs, detections, maps,
            started=started, passes=1, layers=[layer.name for layer in attention.layers], details=matches,
        )  # fmt: skip


def best_query(attention: QueryAttention, detection: Detections) -> dict[str, Any]:
    """The number of the query that matches a detection best, its IoU and its score of the class.

    The number is None where no query overlaps the box.
    """
    with torch.no_grad():
        boxes, scores = attention.candidates.of_labels(detection.labels.to(attention.inputs.tensor.device))
        ious = box_iou(boxes[0, 0], detection.boxes.to(boxes))
        best = int((ious * scores[0, 0]).argmax())
    iou = float(ious[best])
    return {"query": best if iou > 0 else None, "iou": iou, "class_score": float(scores[0, 0, best])}


def map_on_image(attention: QueryAttention, query: int | None) -> Tensor:
    """(height, width) of the image: the attention of one query per pixel; zeros where there is none."""
    geometry = attention.inputs.geometries[0]
    if query is None:
        return torch.zeros(geometry.image_size)
    levels = [
        geometry.map_to_image(cells) / geometry.cell_area((cells.shape[0], cells.shape[1]))
        for cells in attention.maps(query)
    ]
    return torch.stack(levels).sum(0)
