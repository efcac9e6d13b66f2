"""Any method of gradients, with FORGrad's low-pass filter applied to its maps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Filling
from detxai.explanation import Explanation, settings_of
from detxai.images import Image
from detxai.low_pass import check_sigma
from detxai.metrics import Case, InsertionDeletion

SIGMAS = (5, 10, 20, 40, 80)  # that "auto" tries, beside no filter at all
STEPS = 8
FILL: Filling = "mean"


@dataclass(frozen=True)
class LowPassed:
    """A method whose maps lose their high spatial frequencies: see ``detxai.low_pass``.

    Gradients are full of them, mostly from pooling and strides, and they say little of the image.

    With ``"auto"``, sigma is the one of 5, 10, 20, 40 and 80 cycles per image side, or none, whose maps are the most
    faithful: with the largest insertion less deletion, as a share of the clean score, on average over the boxes of the
    image. That takes 84 passes a box, and 12 more for the image; ``details["low_pass"]`` says what each came to, and
    that one was chosen for being good at insertion and deletion: do not compare it by these with a method that was not.

    Args:
        method: what makes the maps; it must ask about boxes for ``"auto"``.
        low_pass: sigma, a number from 0, or ``"auto"``.

    Raises:
        ValueError, TypeError: ``low_pass`` is neither, or ``"auto"`` and the method asks about no box.

    Source: Muzellec et al., 2024, FORGrad (ICML; arXiv 2307.09591). Differs in that ``"auto"`` chooses on the image
    explained, where the paper chooses once for each model and method, on 1,280 images of a validation set.
    """

    method: Any
    low_pass: float | str

    def __post_init__(self) -> None:
        if isinstance(self.low_pass, str):
            if self.low_pass != "auto":
                raise ValueError(f"low_pass must be a number from 0 or 'auto', got {self.low_pass!r}")
            if not self.method.asks_about_boxes:
                raise ValueError(f"low_pass must be a number for {self.name}, which asks about no box, got 'auto'")
        else:
            check_sigma("low_pass", self.low_pass)

    @property
    def name(self) -> str:
        return str(self.method.name)

    @property
    def asks_about_boxes(self) -> bool:
        return bool(self.method.asks_about_boxes)

    def recorded_settings(self) -> dict[str, Any]:
        """Those of the method, and ``low_pass``."""
        return {**settings_of(self.method), "low_pass": self.low_pass}

    def most_passes(self, n_boxes: int) -> int:
        """How many passes ``n_boxes`` boxes of one image take, for an estimate before they start."""
        return 1 + (passes_to_choose(n_boxes) if self.low_pass == "auto" else 0)

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections | None = None) -> list[Explanation]:
        """What the method gives, filtered: one explanation for each detection, or one for the image."""
        found = self.method(detector, image, detections)
        if not isinstance(self.low_pass, str):
            return [explanation.low_pass(self.low_pass) for explanation in found]
        return most_faithful(detector, found, detections) if found and detections is not None else []


def most_faithful(detector: Detector, explanations: Sequence[Explanation], detections: Detections) -> list[Explanation]:
    """The explanations of one image under the sigma that ``LowPassed`` calls the most faithful."""
    start = time.perf_counter()
    tried: dict[float | None, list[Explanation]] = {None: list(explanations)}
    tried |= {sigma: [explanation.low_pass(sigma) for explanation in explanations] for sigma in SIGMAS}
    measure = InsertionDeletion(steps=STEPS, fill=FILL)
    overall: dict[float | None, float] = {}
    for sigma, filtered in tried.items():
        case = Case.from_explanations(
            detector, filtered, detections, allow_cropped=True
        )  # these maps are only compared with each other
        overall[sigma] = float(measure(case)["overall_normalised"].nanmean())
    best = max(tried, key=lambda sigma: overall[sigma])  # the first of equals: no filter
    about = {"sigma": best, "overall_normalised": {_key(sigma): _or_none(overall[sigma]) for sigma in tried}}
    n_passes = passes_to_choose(len(detections))
    seconds = time.perf_counter() - start
    return [
        replace(
            explanation,
            settings={**explanation.settings, "low_pass": "auto"},
            details={**explanation.details, "low_pass": about},
            cost=replace(
                explanation.cost,
                seconds=explanation.cost.seconds + seconds,
                forward_passes=explanation.cost.forward_passes + n_passes,
            ),
        )
        for explanation in tried[best]
    ]


def passes_to_choose(n_boxes: int) -> int:
    """How many passes ``most_faithful`` takes."""
    return (1 + len(SIGMAS)) * (2 * n_boxes * (STEPS - 1) + 2)


def _key(sigma: float | None) -> str:
    return "unfiltered" if sigma is None else str(sigma)


def _or_none(value: float) -> float | None:
    """A number as JSON can hold it: None where the detector finds none of the boxes on the whole image."""
    return None if math.isnan(value) else value
