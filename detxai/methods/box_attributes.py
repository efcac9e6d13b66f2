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
from detxai.explanation import Cost, Explanation, settings_of
from detxai.geometry import Geometry
from detxai.images import Image
from detxai.methods.layer_cam import Traced
from detxai.targets import BoxSideTarget, Target, ask_about, score_targets

Attribute = Literal["score", "left", "top", "right", "bottom", "combined"]
Side = Literal["left", "top", "right", "bottom"]
SIDES: tuple[Side, ...] = get_args(Side)
# from features and gradients (C, h, w), where the level lies, and the box (4,) xyxy in pixels of the image, to (h, w)
LevelMap: TypeAlias = Callable[[Tensor, Tensor, Geometry, Tensor], Tensor]


def check_attribute(attribute: object) -> None:
    """Raise ``ValueError`` where there is no such attribute."""
    if attribute not in get_args(Attribute):
        raise ValueError(f"attribute must be one of {list(get_args(Attribute))}, got {attribute!r}")


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
    start = time.perf_counter()
    if len(detections) == 0:
        return []
    questions = _questions(method)
    with detector.borrowed():
        traced = Traced.of(detector, image, names, propagate=False)
        traced.expect_gradients()
        explained = []
        with torch.enable_grad():
            asked = list(questions.values())
            targets = [target for question in asked for target in ask_about(detections, question)]
            scores = score_targets(targets, traced.candidates)[:, 0].view(len(asked), len(detections))
            for place in range(len(detections)):
                pairs = [_map_of(traced, score, detections.boxes[place], level_map) for score in scores[:, place]]
                maps = [map_ for map_, _ in pairs]
                values = maps[0] if len(maps) == 1 else torch.stack([scaled(map_) for map_ in maps]).amax(0)
                explained.append((values, dict(zip(questions, (level for _, level in pairs), strict=True))))
    cost = Cost(time.perf_counter() - start, forward_passes=1)
    settings, model = settings_of(method), {**detector.describe(), "layers": list(traced.levels)}
    return [
        Explanation(
            values.cpu().numpy(),
            traced.inputs.images[0],
            method.name,
            settings,
            cost,
            detection,
            model=model,
            details={"levels": levels},
        )
        for (values, levels), detection in zip(explained, detections, strict=True)
    ]


def _questions(method: Any) -> dict[str, Callable[[Any, int], Target]]:
    of_sides: dict[str, Callable[[Any, int], Target]] = {side: partial(BoxSideTarget, side=side) for side in SIDES}
    every = {"score": method.target, **of_sides}
    return every if method.attribute == "combined" else {method.attribute: every[method.attribute]}


def _map_of(traced: Traced, score: Tensor, box: Tensor, level_map: LevelMap) -> tuple[Tensor, str]:
    """The map (H, W) of one score in image pixels, and the name of the level it was made on."""
    gradients = traced.gradients(score)
    sizes = [0.0 if gradient is None else float(gradient.abs().sum()) for gradient in gradients]
    place = sizes.index(max(sizes))
    name, level = list(traced.levels.items())[place]
    gradient = gradients[place]
    geometry = traced.inputs.geometries[0]
    if gradient is None:
        return level.new_zeros(geometry.image_size).float(), name
    cells = level_map(level[0].detach().float(), gradient[0].float(), geometry, box)
    return geometry.map_to_image(cells), name


def scaled(map_: Tensor) -> Tensor:
    """The map from 0 at its smallest value to 1 at its largest; zeros where it is flat.

    >>> scaled(torch.tensor([[1.0, 2.0, 5.0]])), scaled(torch.ones(1, 2))
    (tensor([[0.0000, 0.2500, 1.0000]]), tensor([[0., 0.]]))
    """
    above = map_ - map_.min()
    peak = above.max()
    return above / torch.where(peak > 0, peak, 1)
