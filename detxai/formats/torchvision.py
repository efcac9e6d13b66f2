"""torchvision's dicts of one image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from detxai.detections import ClassNames, Detections
from detxai.formats.checks import class_numbers, expect_type, on_cpu


def from_torchvision(output: Mapping[str, Tensor], class_names: ClassNames = ()) -> Detections:
    """What a torchvision detector returned for one image, as detections.

    Args:
        output: ``boxes`` (N, 4) xyxy in original pixels, ``scores`` (N,) and ``labels`` (N,); other entries, such as
            ``masks``, are ignored. A training target, which has no scores, gets scores of 1.
        class_names: label -> name, or the names of labels 0, 1, 2, ...; torchvision's label 0 is the background.

    Raises:
        TypeError: ``output`` is no such mapping (a detector returns a list of them, one an image).
        ValueError: an entry is missing or wrong.

    >>> from_torchvision({"boxes": torch.tensor([[0.0, 0.0, 4.0, 8.0]]), "labels": torch.tensor([2])}).scores
    tensor([1.])
    """
    expect_type(output, Mapping, "output", "torchvision's dict of one image")
    missing = sorted({"boxes", "labels"} - set(output))
    if missing:
        raise ValueError(f"output must have 'boxes' and 'labels', got {sorted(output)}")
    scores = output["scores"] if "scores" in output else torch.ones(len(output["labels"]))
    return Detections(on_cpu(output["boxes"]), on_cpu(scores), class_numbers("labels", output["labels"]), class_names)


def to_torchvision(detections: Detections) -> dict[str, Tensor]:
    """Detections as torchvision returns them: ``boxes``, ``scores`` and ``labels``; copies.

    >>> sorted(to_torchvision(Detections([], [], [])))
    ['boxes', 'labels', 'scores']
    """
    expect_type(detections, Detections, "detections", "detxai.Detections")
    return {name: getattr(detections, name).clone() for name in ("boxes", "scores", "labels")}
