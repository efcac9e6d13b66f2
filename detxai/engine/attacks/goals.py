"""What an attack makes of one box: gone, of another class, or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from detxai.adapters.detector import Inputs
from detxai.adapters.network import NetworkDetector
from detxai.detections import Candidates, Detections
from detxai.geometry import box_iou
from detxai.images import Image
from detxai.targets import ClassScoreTarget, ContrastTarget, score_targets

GoalName = Literal["vanish", "class", "move"]
GOALS: tuple[GoalName, ...] = get_args(GoalName)
SAME_BOX = 0.5  # IoU from which a detection counts as the attacked box, as in COCO's AP50
SMALLEST, NONE = 1e-9, 0.01  # scores
SHIFT = 0.5  # of the box's side: the moved box overlaps the old one by an IoU of 1/3, which no longer matches it


@dataclass(frozen=True)
class AttackGoal:
    """What an attack lowers, made of box scores, and how to see whether it got what it wanted.

    ``loss = log score(box as its class) - log score(what is wanted instead)``, with the score of
    ``ClassScoreTarget``: the highest ``IoU * p(label)`` over all candidates. Logarithms, because a score near 0, such
    as that of the class that is wanted, has next to no slope of its own, and the attack would only make the box vanish.
    Where something is wanted, a score of the box below a hundredth counts as none.

    Attributes:
        name: ``"vanish"`` (nothing is wanted instead), ``"class"`` or ``"move"``.
        own: the score of the box as it is.
        wanted: the score of what shall be there instead; None: nothing.
    """

    name: GoalName
    own: ClassScoreTarget
    wanted: ClassScoreTarget | None = None

    def loss(self, candidates: Candidates) -> Tensor:
        """(B,) what the attack lowers, for candidates of B images; differentiable."""
        if self.wanted is None:
            return score_targets([self.own], candidates)[0].clamp(min=SMALLEST).log()
        own, wanted = score_targets([self.own, self.wanted], candidates)
        return own.clamp(min=NONE).log() - wanted.clamp(min=SMALLEST).log()

    def own_score(self, candidates: Candidates) -> Tensor:
        """(B,) the score of the attacked box."""
        return score_targets([self.own], candidates)[0]

    def is_reached(self, detections: Detections) -> bool:
        """Whether these detections of the attacked image are what the goal wants: the old box is not among them, and
        the wanted one is."""
        is_gone = not _holds(detections, self.own)
        return is_gone and (self.wanted is None or _holds(detections, self.wanted))


def make_goal(
    name: GoalName,
    detector: NetworkDetector,
    image: Image,
    detection: Detections,
    *,
    other: int | None = None,
    destination: Sequence[float] | None = None,
) -> AttackGoal:
    """The goal of an attack on one detection of an image.

    Args:
        name: ``"vanish"``, ``"class"`` (the box gets the label ``other``) or ``"move"`` (it is found at
            ``destination``).
        detector: what is attacked.
        image: the image.
        detection: one box of it.
        other: the label wanted; default: the likeliest other class of the box's own candidate.
        destination: xyxy, pixels of the image; default: the box shifted by half its width towards the side with more
            room.

    Raises:
        TypeError, ValueError: an argument is wrong, or is not for this goal.
    """
    if name not in GOALS:
        raise ValueError(f"goal must be one of {list(GOALS)}, got {name!r}")
    if len(detection) != 1:
        raise ValueError(f"detection must be one box, such as detections[0], got {len(detection)}")
    if other is not None and name != "class":
        raise ValueError(f"other is for the goal 'class', got goal {name!r}")
    if destination is not None and name != "move":
        raise ValueError(f"destination is for the goal 'move', got goal {name!r}")
    box, label = detection.boxes[0].tolist(), int(detection.labels[0])
    own = ClassScoreTarget(box, label, reach=0)
    if name == "vanish":
        return AttackGoal(name, own)
    with torch.no_grad():
        inputs = detector.prepare_one(image)
        if name == "move":
            goes_to = shifted(box, inputs.geometries[0].image_size) if destination is None else list(destination)
            return AttackGoal(name, own, ClassScoreTarget(goes_to, label, reach=0))
        return AttackGoal(name, own, ClassScoreTarget(box, _other_label(detector, inputs, detection, other), reach=0))


def shifted(box: Sequence[float], image_size: tuple[int, int]) -> list[float]:
    """The box (xyxy) moved by half its width towards the side of the image with more room, and kept in the image.

    >>> shifted([10, 0, 30, 8], (100, 100))
    [20.0, 0, 40.0, 8]
    """
    x1, y1, x2, y2 = box
    step = SHIFT * (x2 - x1)
    step = min(step, image_size[1] - x2) if image_size[1] - x2 >= x1 else -min(step, x1)
    return [x1 + step, y1, x2 + step, y2]


def _other_label(detector: NetworkDetector, inputs: Inputs, detection: Detections, other: int | None) -> int:
    candidates = detector.candidates(inputs)
    labels, own = candidates.labels.tolist(), int(detection.labels[0])
    if other is None:
        (runner_up,) = ContrastTarget.seen_in(candidates, detection.to(candidates.boxes.device))
        if runner_up.other is None:
            raise ValueError("other must be given: the detector has no second class to read for this box")
        return runner_up.other
    if other not in labels or other == own:
        raise ValueError(f"other must be one of the detector's {len(labels)} classes and not {own}, got {other}")
    return other


def _holds(detections: Detections, wanted: ClassScoreTarget) -> bool:
    """Whether a detection of the wanted class lies at the wanted box."""
    overlap = box_iou(detections.boxes, detections.boxes.new_tensor(wanted.box)) >= SAME_BOX
    return bool((overlap & (detections.labels == wanted.label)).any())
