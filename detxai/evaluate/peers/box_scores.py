"""What searches over hidden parts of an image have in common: the score of one box under view after view."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import FILLINGS, Canvas
from detxai.engine.masking.scoring import ViewScorer
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image
from detxai.methods.region_shapley import boxes_on, check_sampling
from detxai.targets import Target, ask_about


@dataclass
class BoxScores:
    """The scores of one target, and how many passes they took.

    Attributes:
        detector, canvas, target: what is scored, on which image, by which target.
        box: (4,) xyxy, in pixels of the canvas.
        batch_size: views at once; None: what fits the device.
        n_passes: so far.
    """

    detector: Detector
    canvas: Canvas
    target: Target
    box: Tensor
    batch_size: int | None = None
    n_passes: int = field(default=0, init=False)

    def under_masks(self, masks: Callable[[Tensor], Tensor], n: int) -> Tensor:
        """(n,) float64 on the CPU, the scores under the masks of these numbers: see ``ViewScorer``."""
        self.n_passes += n
        scorer = ViewScorer(self.detector, self.canvas, [self.target], self.batch_size)
        return scorer.under_masks(masks, range(n))[0].double().cpu()

    def with_regions(self, shown: Tensor, labels: Tensor) -> Tensor:
        """(n,) the scores where only some regions are shown.

        Args:
            shown: (n, R) bool, which regions.
            labels: (h, w) int64, the region of each pixel of the canvas.
        """
        labels, table = labels.to(self.canvas.clean.tensor.device), shown.to(self.canvas.clean.tensor.device)
        return self.under_masks(lambda numbers: table[numbers][:, labels].float(), len(shown))


def check_peer(method: Any) -> None:
    """Check the settings that searches share: one fill, seed, target and batch size."""
    check_sampling(method)
    if not isinstance(method.fill, str) and any(isinstance(one, str) for one in method.fill):
        raise ValueError(f"fill must be one of {FILLINGS} or an RGB colour in [0, 1], got {method.fill!r}")


def explain_each(
    method: Any, detector: Detector, image: Image, detections: Detections, map_of: Callable[[BoxScores], Tensor]
) -> list[Explanation]:
    """An explanation for each detection, by itself.

    Args:
        method: with the settings ``fill``, ``seed``, ``target`` and ``batch_size``.
        detector, image, detections: as for any method.
        map_of: from a box's scores to the map (h, w) of its canvas.
    """
    canvas = Canvas.with_fills(detector, image, [method.fill], method.seed)
    targets, boxes = ask_about(detections, method.target), boxes_on(canvas, detections)
    explanations = []
    with detector.borrowed():
        for place, target in enumerate(targets):
            start = time.perf_counter()
            box_scores = BoxScores(detector, canvas, target, boxes[place], method.batch_size)
            values = canvas.to_image(map_of(box_scores).float().to(boxes.device)).cpu().numpy()
            cost = Cost(time.perf_counter() - start, box_scores.n_passes)
            explanations.append(
                Explanation(
                    values, canvas.clean.images[0], method.name, settings_of(method), cost, detections[place],
                    model=detector.describe(),
                )
            )  # fmt: skip
    return explanations
