"""What a detector predicts of a box, each number traced back to the level of features that the box came from."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.adapters.network import require_network
from detxai.detections import Detections
from detxai.engine.gradients import Trace
from detxai.explanation import Explanation
from detxai.geometry import Geometry
from detxai.images import Image
from detxai.methods.checks import check_choice
from detxai.methods.results import explanations
from detxai.targets import BoxSideTarget, Target, ask_about

Attribute = Literal["score", "left", "top", "right", "bottom", "combined"]
Side = Literal["left", "top", "right", "bottom"]
SIDES: tuple[Side, ...] = get_args(Side)
# from features and gradients (C, h, w), where the level lies, and the box (4,) xyxy in pixels of the image, to (h, w)
LevelMap: TypeAlias = Callable[[Tensor, Tensor, Geometry, Tensor], Tensor]


def check_attribute(attribute: object) -> None:
    """Raise ``ValueError`` where there is no such attribute."""
    check_choice("attribute", attribute, get_args(Attribute))


def explain_attributes(
    method: Any, detector: Detector, image: Image, detections: Detections, level_map: LevelMap
) -> list[Explanation]:
    """One explanation for each detection, of what ``method.attribute`` names.

    The level that a box came from is the one whose features its score reads: with all others held, the only one with a
    gradient, or that of the largest gradients where ``method.layers`` are further in front. ``details["levels"]`` names
    it for each attribute. Several attributes are combined as ODAM does, by the largest at each pixel of the maps scaled
    to [0, 1].

    Args:
        method: has ``name``, ``layers``, ``target`` and ``attribute``.
        level_map: the method's formula.
    """
    detector = require_network(detector)
    names = detector.layer_names(method.layers)
    started = time.perf_counter()
    if len(detections) == 0:
        return []
    questions = _questions(method)
    with detector.borrowed():
        trace = Trace.from_image(detector, image, names, propagate=False)
        targets = [target for question in questions.values() for target in ask_about(detections, question)]
        scores = trace.scores(targets)  # those of all boxes for one question after another
        values, details = [], []
        for place, box in enumerate(detections.boxes):
            of_box = scores[place :: len(detections)]
            maps, levels = zip(*[_map_of(trace, score, box, level_map) for score in of_box])
            values.append(maps[0] if len(maps) == 1 else torch.stack([scaled(map_) for map_ in maps]).amax(0))
            details.append({"levels": dict(zip(questions, levels, strict=True))})
    return explanations(
        method, detector, trace.inputs, detections, values,
        started=started, passes=1, layers=list(trace.levels), details=details,
    )  # fmt: skip


def _questions(method: Any) -> dict[str, Callable[[Any, int], Target]]:
    of_sides: dict[str, Callable[[Any, int], Target]] = {side: partial(BoxSideTarget, side=side) for side in SIDES}
    every = {"score": method.target, **of_sides}
    return every if method.attribute == "combined" else {method.attribute: every[method.attribute]}


def _map_of(trace: Trace, score: Tensor, box: Tensor, level_map: LevelMap) -> tuple[Tensor, str]:
    """The map (H, W) of one score in image pixels, and the name of the level it was made on."""
    gradients = trace.gradients(score)
    sizes = [float(gradient.abs().sum()) for gradient in gradients]
    place = sizes.index(max(sizes))
    name, level = list(trace.levels.items())[place]
    geometry = trace.inputs.geometries[0]
    cells = level_map(level[0].detach().float(), gradients[place][0].float(), geometry, box)
    return geometry.map_to_image(cells), name


def scaled(map_: Tensor) -> Tensor:
    """The map from 0 at its smallest value to 1 at its largest; zeros where it is flat.

    >>> scaled(torch.tensor([[1.0, 2.0, 5.0]])), scaled(torch.ones(1, 2))
    (tensor([[0.0000, 0.2500, 1.0000]]), tensor([[0., 0.]]))
    """
    above = map_ - map_.min()
    peak = above.max()
    return above / torch.where(peak > 0, peak, 1)
