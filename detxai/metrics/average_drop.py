"""Average drop and increase: how much of the detection is left when only the map's pixels show?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.maps import heatmaps, where_known
from detxai.metrics.inputs.scores import ScoreFunction, check_score, distinct, scorer_of, scores_by_map


@dataclass(frozen=True)
class AverageDrop:
    """The share of the score that is lost when only what the heatmap marks is shown.

    The heatmap, in [0, 1], blends each pixel with the fill: 1 shows the pixel, 0 the fill. ``increase`` is 1 if the
    score rises. A map that is 1 everywhere loses nothing, so read this beside a measure of how much the map shows.

    Args:
        fill: what shows where the heatmap is 0: see ``InsertionDeletion``.
        score: how the detection is scored: see ``detxai.metrics.inputs.scores.detection_targets``.
        reference: which box and class are meant: those of the ``"detection"``, or those of its annotated ``"object"``.
        seed: of the random noise.
        batch_size: images at once; None: as many as fit on the device.

    Raises:
        ValueError: a setting is wrong.

    Source: Chattopadhay et al., 2018, Grad-CAM++ (WACV), average drop % and % increase in confidence. Differs in
    giving shares, not percentages; the average over detections is the reader's.
    """

    name: ClassVar[str] = "average_drop"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "average_drop": Quantity("share of the score lost", 0, 1, "lower"),
        "increase": Quantity("1 if the score rises, else 0", 0, 1, "higher"),
    }

    fill: Filling | Sequence[float] = "black"
    score: ScoreFunction = "class_score"
    reference: Reference = "detection"
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_score(self.score)
        check_batch_size(self.batch_size)

    def __call__(self, case: Case) -> dict[str, Tensor]:
        known = case.reference(self.reference)[2]
        clean, seen = self._scores(case)
        drop = torch.where(clean > 0, (clean - seen).clamp(min=0) / torch.where(clean > 0, clean, 1), torch.nan)
        increase = torch.where(clean > 0, (seen > clean).float(), torch.nan)
        return {"average_drop": where_known(drop, known), "increase": where_known(increase, known)}

    def _scores(self, case: Case) -> tuple[Tensor, Tensor]:
        """(T,) the scores on the whole image, and through the heatmap."""
        canvas = Canvas.with_fill(case.detector, case.image, self.fill, self.seed)
        like = canvas.clean.tensor
        if not len(case):
            return like.new_zeros(0), like.new_zeros(0)
        scorer = scorer_of(case, canvas, self)
        keep = canvas.from_image(heatmaps(distinct(case.maps))).clamp(0, 1)
        seen = scores_by_map(scorer, lambda numbers: canvas.inputs(keep[numbers]), len(keep), 1)[:, 0]
        return scorer.ends()[1], seen
