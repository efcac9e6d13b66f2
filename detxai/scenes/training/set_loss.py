"""The loss of a detector that answers with a set: match queries to objects one to one, then compare.

RT-DETR's (Zhao et al., 2024, arXiv 2304.08069): matching by class, L1 and generalised IoU with weights 2, 5 and 2;
varifocal loss with the IoU as the target of the score, L1 and generalised IoU with weights 1, 5 and 2; the same for
the encoder's chosen queries, each decoder layer, and the denoising queries. transformers has the same loss, to which
a test holds this one, but loops over images and layers in Python; here all of them are one batch.
"""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0
NEGATIVE_WEIGHT = 0.75


class Objects(NamedTuple):
    """The objects of a batch: ``labels`` (B, M), -1 where an image has fewer; ``boxes`` (B, M, 4) cxcywh in [0, 1]."""

    labels: Tensor
    boxes: Tensor

    @property
    def present(self) -> Tensor:
        """bool (B, M)."""
        return self.labels >= 0


def matched_loss(logits: Tensor, boxes: Tensor, objects: Objects) -> dict[str, Tensor]:
    """Class, L1 and IoU losses of several layers after matching each of them; sums over layers.

    Args:
        logits: (L, B, Q, C), L layers.
        boxes: (L, B, Q, 4) cxcywh in [0, 1].
        objects: at most Q of them an image.
    """
    return _compare(logits, boxes, objects, match(logits, boxes, objects), objects.present)


def denoising_loss(logits: Tensor, boxes: Tensor, objects: Objects, n_groups: int) -> dict[str, Tensor]:
    """The same for queries made from the objects with noise, which know whose they are.

    Args:
        logits: (L, B, G * 2 * M, C): for each of G groups a near and a far copy of every object. The near ones are to
            find their object, the far ones nothing (contrastive denoising, Zhang et al., 2023, arXiv 2203.03605).
        boxes: (L, B, G * 2 * M, 4).
        objects: the M objects of every image.
        n_groups: G.
    """
    n_layers, n_images = logits.shape[:2]
    n_objects = objects.labels.shape[1]
    starts = torch.arange(n_groups, device=logits.device) * 2 * n_objects
    near = (starts[:, None] + torch.arange(n_objects, device=logits.device)).flatten()
    repeated = Objects(objects.labels.repeat(1, n_groups), objects.boxes.repeat(1, n_groups, 1))
    return _compare(logits, boxes, repeated, near.expand(n_layers, n_images, -1), repeated.present)


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, objects: Objects) -> Tensor:
    """(L, B, M): the query of each object, of least total cost; 0 where there is no object."""
    scores = logits.float().sigmoid()
    labels = objects.labels.clamp(min=0)
    of_class = scores.gather(3, labels[None, :, None, :].expand(*scores.shape[:3], -1))  # (L, B, Q, M)
    positive = 0.25 * (1 - of_class) ** 2 * -(of_class + 1e-8).log()
    negative = 0.75 * of_class**2 * -(1 - of_class + 1e-8).log()
    distance = (boxes[:, :, :, None] - objects.boxes[None, :, None]).abs().sum(-1)
    giou = _overlaps(boxes[:, :, :, None].float(), objects.boxes[None, :, None].float())[1]
    cost = CLASS_COST * (positive - negative) + L1_COST * distance - GIOU_COST * giou
    costs = cost.nan_to_num(1e6, 1e6, 1e6).cpu().numpy()
    counts = objects.present.sum(1).tolist()
    chosen = torch.zeros(logits.shape[0], logits.shape[1], labels.shape[1], dtype=torch.long)
    for layer, of_layer in enumerate(costs):
        for image, of_image in enumerate(of_layer):
            queries, columns = linear_sum_assignment(of_image[:, : counts[image]])
            chosen[layer, image, torch.from_numpy(columns)] = torch.from_numpy(queries)
    return chosen.to(logits.device)


def _compare(logits: Tensor, boxes: Tensor, objects: Objects, chosen: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Losses for given pairs: object m of an image with its query ``chosen[layer, image, m]``."""
    logits, boxes = logits.float(), boxes.float()
    mine = boxes.gather(2, chosen[..., None].expand(*chosen.shape, 4))
    truth = objects.boxes.float().expand_as(mine)
    iou, giou = _overlaps(mine, truth)
    here = present.expand(chosen.shape).float()
    count = present.sum().clamp(min=1)
    target = torch.zeros_like(logits)
    layer, image = (
        torch.arange(size, device=logits.device).view(shape)
        for size, shape in zip(chosen.shape[:2], ((-1, 1, 1), (1, -1, 1)), strict=True)
    )
    labels = objects.labels.clamp(min=0).expand(chosen.shape)
    # several absent objects may name query 0: they add nothing to it
    target.index_put_((layer, image, chosen, labels), iou.detach() * here, accumulate=True)
    is_object = target.new_zeros(target.shape).index_put((layer, image, chosen, labels), here, accumulate=True)
    score = logits.detach().sigmoid()
    weight = NEGATIVE_WEIGHT * score**2 * (1 - is_object) + target
    of_class = binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
    distance = ((mine - truth).abs().sum(-1) * here).sum()
    return {
        "class": CLASS_WEIGHT * of_class / count,
        "l1": L1_WEIGHT * distance / count,
        "giou": GIOU_WEIGHT * ((1 - giou) * here).sum() / count,
    }


def _overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes (..., 4) cxcywh that broadcast with each other."""
    low_a, high_a = first[..., :2] - first[..., 2:] / 2, first[..., :2] + first[..., 2:] / 2
    low_b, high_b = second[..., :2] - second[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2
    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    around = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1).clamp(min=1e-9)
    union = (first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared).clamp(min=1e-9)
    iou = shared / union
    return iou, iou - (around - union) / around
