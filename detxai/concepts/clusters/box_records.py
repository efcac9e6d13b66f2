"""What each concept does for each box of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.network import NetworkDetector
from detxai.detections import Detections
from detxai.engine.concepts.concept_file import Concepts
from detxai.engine.concepts.effects import concept_effects, concept_maps, memberships_of
from detxai.engine.masking.canvas import Canvas
from detxai.targets import ClassScoreTarget, Target, ask_about, score_targets

MARGIN = 0.1  # of the box's sides, that still count as the box where the surroundings are hidden
NEARNESS = 0.01  # what the distance of a whole image diagonal takes from a membership, so that ties go to the nearest


def box_records(
    detector: NetworkDetector,
    image: npt.NDArray[np.uint8],
    detections: Detections,
    concepts: Concepts,
    evidence: Tensor | None = None,
) -> list[dict[str, Any]]:
    """A record of each box, as JSON can hold it.

    ``effects`` (J,): ``(y - y_j) / |y|``, the share of the score lost without each concept; ``present`` (J,): the
    highest membership of a pixel in the box, at any level; ``peaks`` (J, 2): x, y where the concept is strongest, the
    nearest such place to the box; ``context``: the share of the score lost where everything but the box, with a tenth
    of its sides around it, is hidden under the image's mean colour; ``evidence_mass`` (J,) and ``evidence_chance``: the
    share of each concept's map, and of the image, on the known evidence, where there is any.

    Args:
        detector: whose boxes they are.
        image: uint8 (H, W, 3).
        detections: T boxes.
        concepts: J of them.
        evidence: (T, H, W) bool, the pixels that decide each box; None: nobody knows.
    """
    if len(detections) == 0:
        return []
    features = detector.features(image, concepts.layers)
    targets = ask_about(detections, ClassScoreTarget)
    with detector.borrowed(), torch.no_grad():
        memberships = memberships_of(concepts, features)
        found = concept_effects(detector, features, targets, concepts, memberships)
        maps = concept_maps(concepts, features, memberships).cpu()
        strongest = concept_maps(concepts, features, memberships, "max").cpu()
        context = _context_reliance(detector, image, detections, targets)
    scale = torch.where(found.clean == 0, 1, found.clean.abs())
    effects = (found.drops / scale[:, None]).cpu()
    records = []
    for number in range(len(detections)):
        box = detections.boxes[number].tolist()
        records.append(
            {
                "box": box,
                "label": int(detections.labels[number]),
                "score": float(detections.scores[number]),
                "effects": effects[number].tolist(),
                "present": _inside(strongest, box).amax((1, 2)).tolist(),
                "peaks": _peaks(maps, box),
                "context": context[number],
                **({} if evidence is None else _on_evidence(maps, evidence[number])),
            }
        )
    return records


def _context_reliance(
    detector: NetworkDetector, image: npt.NDArray[np.uint8], detections: Detections, targets: Sequence[Target]
) -> list[float]:
    canvas = Canvas.with_fill(detector, image, "mean")
    lost = []
    for number, target in enumerate(targets):
        box = _widened(detections.boxes[number].tolist())
        keep = torch.zeros(1, *image.shape[:2])
        _inside(keep, box)[:] = 1
        views = torch.cat([canvas.from_image(keep), torch.ones(1, *canvas.size)])
        hidden, clean = score_targets([target], canvas.candidates(detector, canvas.inputs(views)))[0].tolist()
        lost.append((clean - hidden) / (abs(clean) or 1))
    return lost


def _widened(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    dx, dy = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    return [x1 - dx, y1 - dy, x2 + dx, y2 + dy]


def _inside(maps: Tensor, box: list[float]) -> Tensor:
    """The pixels (..., h, w) of maps that a box covers, at least one."""
    height, width = maps.shape[-2:]
    left, top = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    right, bottom = max(int(np.ceil(box[2])), left + 1), max(int(np.ceil(box[3])), top + 1)
    return maps[..., top:bottom, left:right]


def _peaks(maps: Tensor, box: list[float]) -> list[list[int]]:
    height, width = maps.shape[1:]
    down = torch.arange(height)[:, None] - (box[1] + box[3]) / 2
    right = torch.arange(width)[None] - (box[0] + box[2]) / 2
    distance = (down.square() + right.square()).sqrt() / float(np.hypot(height, width))
    places = (maps - NEARNESS * distance).flatten(1).argmax(1)
    return [[int(place) % width, int(place) // width] for place in places]


def _on_evidence(maps: Tensor, evidence: Tensor) -> dict[str, Any]:
    if not bool(evidence.any()):
        return {}
    total = maps.sum((1, 2))
    mass = (maps * evidence).sum((1, 2)) / torch.where(total > 0, total, 1)
    return {"evidence_mass": mass.tolist(), "evidence_chance": float(evidence.float().mean())}
