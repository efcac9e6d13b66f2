"""What if: a picture painted over, what the detector then says of a box, and what the map had predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from PIL import ImageDraw

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import filling_image
from detxai.explanation import Explanation
from detxai.geometry import box_iou
from detxai.targets import ClassScoreTarget
from detxai.targets.target import score_targets

Effect = Literal["hide", "blur", "mean colour", "noise", "colour"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
FILLS = {"hide": "black", "blur": "blur", "mean colour": "mean", "noise": "noise"}
MOST_STROKES, MOST_POINTS = 300, 20_000  # of one painting, and of all its strokes together
ADDS_UP = 0.05  # how far the sum of a map may be from the change of score that it shares out, as a share of that


def paint_mask(strokes: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The pixels (height, width) that strokes cover.

    Args:
        strokes: as the browser sends them: each ``{"points": [[x, y], ...], "radius": r}`` in pixels of the image.
        height, width: of the image.

    Raises:
        ValueError: they are no strokes, or too many.
    """
    picture = PIL.Image.new("1", (width, height))
    draw = ImageDraw.Draw(picture)
    for points, radius in _checked(strokes, max(height, width)):
        if len(points) > 1:
            draw.line(points, fill=1, width=max(1, round(2 * radius)), joint="curve")
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(picture, dtype=bool)


def _checked(strokes: Any, largest: int) -> list[tuple[list[tuple[float, float]], float]]:
    if not isinstance(strokes, list) or len(strokes) > MOST_STROKES:
        raise ValueError(f"strokes must be a list of at most {MOST_STROKES}")
    checked: list[tuple[list[tuple[float, float]], float]] = []
    for stroke in strokes:
        if not isinstance(stroke, Mapping) or not isinstance(stroke.get("points"), list):
            raise ValueError("strokes must have points and a radius")
        points = [(float(x), float(y)) for x, y in stroke["points"]]
        radius = float(stroke.get("radius", 0))
        if not all(math.isfinite(side) for point in points for side in point) or not 0 < radius <= largest:
            raise ValueError(f"strokes must lie in the image, with a radius up to {largest} pixels")
        checked.append(([(_clipped(x, largest), _clipped(y, largest)) for x, y in points], radius))
    if sum(len(points) for points, _ in checked) > MOST_POINTS:
        raise ValueError(f"strokes must have at most {MOST_POINTS} points together")
    return checked


def _clipped(value: float, largest: int) -> float:
    return min(max(value, -largest), 2.0 * largest)


def painted(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], effect: Effect, colour: Sequence[float] = (0, 0, 0)
) -> npt.NDArray[np.uint8]:
    """The image (H, W, 3) with something else where ``mask`` (H, W) is.

    Args:
        image: uint8.
        mask: which pixels.
        effect: what stands there.
        colour: RGB in [0, 1], for ``"colour"``.
    """
    filling = filling_image(image, colour if effect == "colour" else FILLS[effect])  # type: ignore[arg-type]
    return np.where(mask[..., None], filling, image)


@dataclass(frozen=True)
class Reaction:
    """What the detector says of a box before and after.

    Attributes:
        before, after: the box's score of its class, ``max IoU * p``: ``ClassScoreTarget``.
        share: of the map's positive evidence that lay under the paint.
        predicted: the score after, by the map; None: the map does not share out the score.
        found: the detection that now overlaps the box most, of length 1; of length 0 where none does.
        iou: of that one.
    """

    before: float
    after: float
    share: float
    predicted: float | None
    found: Detections
    iou: float


def react(
    detector: Detector,
    explanation: Explanation,
    edited: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    score_threshold: float = 0.25,
) -> Reaction:
    """Ask the detector about the box of an explanation in an edited version of its image."""
    detection = explanation.detection
    assert detection is not None
    (target,) = ClassScoreTarget.of(detection)
    with detector.borrowed(), torch.no_grad():
        scores = [float(score_targets([target], detector.candidates(one))[0, 0]) for one in (explanation.image, edited)]
        found = detector.detect(edited, score_threshold)
    overlaps = box_iou(detection.boxes.cpu(), found.boxes.cpu()) if len(found) else torch.zeros(0)
    best = int(overlaps.argmax()) if len(overlaps) else 0
    has_any = len(overlaps) > 0 and float(overlaps[best]) > 0
    return Reaction(
        scores[0], scores[1], evidence_share(explanation, mask), predicted_score(explanation, mask, scores[0]),
        found[best : best + 1] if has_any else found[:0], float(overlaps[best]) if has_any else 0.0,
    )  # fmt: skip


def evidence_share(explanation: Explanation, mask: npt.NDArray[np.bool_]) -> float:
    """The share of a map's positive sum that lies under ``mask`` (H, W); 0 where the map has none."""
    positive = np.maximum(explanation.values, 0).astype(np.float64)
    total = float(positive.sum())
    return float(positive[mask].sum()) / total if total > 0 else 0.0


def predicted_score(explanation: Explanation, mask: npt.NDArray[np.bool_], before: float) -> float | None:
    """``before`` less what the map gives to the pixels of ``mask``, in [0, 1]; None where it shares out no score.

    A map does where its sum is the score of the whole image less that of nothing shown, as its ``details`` tell both:
    so it is with Shapley values.
    """
    clean, hidden = (explanation.details.get(name) for name in ("clean_score", "hidden_scores"))
    if clean is None or not hidden:
        return None
    total = float(clean) - float(np.mean(hidden))
    values = explanation.values.astype(np.float64)
    if total <= 0 or abs(values.sum() - total) > ADDS_UP * total:
        return None
    return min(max(before - float(values[mask].sum()), 0.0), 1.0)
