"""D-RISE with masks of several densities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Filling
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image
from detxai.methods import DRISE
from detxai.methods.checks import check_count
from detxai.targets import SimilarityTarget, Target

FEWEST_EACH = 16  # masks of a density: D-RISE makes no map of fewer


@dataclass(frozen=True)
class DRISEMixed:
    """The mean of D-RISE's maps for several probabilities that a cell is kept.

    Sparse masks tell what is enough for the box, dense ones what it cannot do without. Each map is D-RISE's own, in
    units of the score, so the mean needs no scaling.

    Args:
        n_masks: of all densities together, shared out evenly; at least 16 for each.
        densities: the probabilities, in (0, 1).
        fill: what stands where a mask hides.
        seed: of the masks; each density has masks of its own.
        target: from a detection's box and label to the target that is scored.
        batch_size: masks at once; None: what fits the device.

    Source: Petsiuk et al., 2021, D-RISE (CVPR); the mixture is detxai's own rival to it.
    """

    name: ClassVar[str] = "d_rise_mixed"
    asks_about_boxes: ClassVar[bool] = True

    n_masks: int = 1000
    densities: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9)
    fill: Filling | Sequence[float] = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = SimilarityTarget
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self.densities:
            raise ValueError("densities must hold at least one probability, got none")
        check_count("n_masks", self.n_masks, FEWEST_EACH * len(self.densities))
        self.parts()  # its settings are D-RISE's to check

    def parts(self) -> list[DRISE]:
        """D-RISE for each density."""
        share, more = divmod(self.n_masks, len(self.densities))
        return [
            DRISE(
                n_masks=share + (place < more), p=p, seed=self.seed + place, fill=self.fill, target=self.target,
                batch_size=self.batch_size, progress=False,
            )
            for place, p in enumerate(self.densities)
        ]  # fmt: skip

    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        by_density = [part(detector, image, detections) for part in self.parts()]
        return [self._joined(of_box) for of_box in zip(*by_density, strict=True)]

    def _joined(self, of_box: Sequence[Explanation]) -> Explanation:
        costs = [explanation.cost for explanation in of_box]
        return replace(
            of_box[0],
            values=np.mean([explanation.values for explanation in of_box], axis=0).astype(np.float32),
            method=self.name,
            settings=settings_of(self),
            cost=Cost(sum(cost.seconds for cost in costs), sum(cost.forward_passes for cost in costs)),
            standard_error=None,
            details={},
        )
