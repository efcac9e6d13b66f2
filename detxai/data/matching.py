"""Which detection is of which annotated object: the greedy matching of Pascal VOC and COCO, for one image."""

from __future__ import annotations

from torch import Tensor

from detxai.detections import Detections
from detxai.geometry import box_iou

SAME_OBJECT = 0.5  # IoU from which a detection is of an annotated object: Pascal VOC's and COCO's AP50


def match_objects(detections: Detections, boxes: Tensor, labels: Tensor, least_iou: float = SAME_OBJECT) -> list[int]:
    """Which object each detection is of; -1: none.

    The detection scored highest chooses first: the object of its label that it overlaps most, by an IoU of at least
    ``least_iou``, and that no other has taken.

    Args:
        detections: of one image, N of them.
        boxes: (G, 4) xyxy of the objects, pixels of the image.
        labels: (G,) their labels.
        least_iou: from which a detection is of an object.

    Returns:
        N places of objects.

    >>> found = Detections([[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 9]], [0.5, 0.9, 0.7], [1, 1, 2])
    >>> match_objects(found, torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 9.0, 10.0]]), torch.tensor([1, 1]))
    [1, 0, -1]
    """
    owners = [-1] * len(detections)
    if not len(boxes):
        return owners
    overlap = box_iou(detections.boxes.cpu()[:, None], boxes.cpu()[None])
    overlap[detections.labels.cpu()[:, None] != labels.cpu()[None]] = -1
    for place in detections.scores.argsort(descending=True, stable=True).tolist():
        best = int(overlap[place].argmax())
        if overlap[place, best] >= least_iou:
            owners[place] = best
            overlap[:, best] = -1
    return owners
