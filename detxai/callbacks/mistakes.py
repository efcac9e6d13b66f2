"""The mistakes of a validation: boxes that should not be there, and objects that were not found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.callbacks.panel import PanelImage, object_scores
from detxai.callbacks.snapshot import BoxSnapshot, expect_whole, measures_of
from detxai.data.matching import match_objects
from detxai.detections import Detections
from detxai.explain import Method, explain

Kind = Literal["false_positive", "miss"]
KINDS: tuple[Kind, ...] = ("false_positive", "miss")


@dataclass(frozen=True)
class Mistake:
    """A validation image with a mistake of one kind; the worst one on it is explained.

    Attributes:
        kind: ``"false_positive"`` or ``"miss"``.
        item: the image, with its annotated objects.
        rank: 0 is the worst of its kind.
        score_threshold: detections below it are none.
    """

    kind: Kind
    item: PanelImage
    rank: int = 0
    score_threshold: float = 0.25


def explain_mistake(detector: Detector, mistake: Mistake, method: Method) -> list[BoxSnapshot]:
    """The worst mistake of this kind on the image, explained; empty where the detector makes none now.

    The worst false positive is the one with the highest score; the worst miss is the object of which the detector
    sees least. A miss is explained at the place and class of the object: the little evidence for it.
    """
    item, objects = mistake.item, mistake.item.objects
    if objects is None:
        raise ValueError(f"a mistake needs the annotated objects of its image {item.name!r}, got none")
    found = detector.detect(item.pixels, mistake.score_threshold).to("cpu")
    is_right, is_found = match(found, objects)
    if mistake.kind == "false_positive":
        boxes = found[(~is_right).nonzero().flatten()]
        worst = boxes[boxes.scores.argsort(descending=True)[:1]]
    else:
        boxes = objects[(~is_found).nonzero().flatten()]
        boxes = replace(boxes, class_names=detector.class_names)
        if len(boxes):
            with torch.no_grad():
                boxes = replace(boxes, scores=object_scores(detector, item.pixels, boxes).cpu().clamp(0, 1))
        worst = boxes[boxes.scores.argsort()[:1]]
    if not len(worst):
        return []
    (explanation,) = explanations = explain(detector, item.pixels, method, worst)
    expect_whole(explanations)
    measures = measures_of(explanation, worst, None, None)
    return [BoxSnapshot(item.name, mistake.rank, worst, explanation, measures, mistake.kind)]


def match(found: Detections, objects: Detections) -> tuple[Tensor, Tensor]:
    """Which detections are right (N,) and which objects are found (G,), both bool.

    Greedy from the highest score, same class, IoU 0.5 or more, each object once.

    >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    >>> twice = Detections(box.repeat(2, 1), torch.tensor([0.6, 0.9]), torch.tensor([1, 1]))
    >>> match(twice, Detections(box, torch.ones(1), torch.tensor([1])))
    (tensor([False,  True]), tensor([True]))
    """
    owners = torch.tensor(match_objects(found, objects.boxes, objects.labels), dtype=torch.long)
    seen = torch.zeros(len(objects), dtype=torch.bool)
    seen[owners[owners >= 0]] = True
    return owners >= 0, seen


def worst_images(
    right: Sequence[Tensor], scores: Sequence[Tensor], n_objects: Sequence[int], *, most: int, score_threshold: float
) -> tuple[list[int], list[int]]:
    """The images with the surest false positives, and those with the most objects missed: indices, worst first.

    Args:
        right: for each image (N,) bool, from a validator's own matching.
        scores: for each image (N,).
        n_objects: for each image.
        most: at most so many of each.
        score_threshold: detections below it are none.

    >>> right = [torch.tensor([True, False]), torch.tensor([False])]
    >>> worst_images(right, [torch.tensor([0.9, 0.3]), torch.tensor([0.8])], [1, 2], most=2, score_threshold=0.25)
    ([1, 0], [1])
    """
    surest, missed = [], []
    for one_right, one_scores, n in zip(right, scores, n_objects, strict=True):
        there = one_scores >= score_threshold
        wrong = one_scores[there & ~one_right]
        surest.append(float(wrong.max()) if len(wrong) else -math.inf)
        missed.append(n - int((there & one_right).sum()))
    false = [i for i in sorted(range(len(surest)), key=lambda i: -surest[i]) if surest[i] > -math.inf]
    misses = [i for i in sorted(range(len(missed)), key=lambda i: -missed[i]) if missed[i] > 0]
    return false[:most], misses[:most]
