"""ROAD: the score while pixels are removed in the order of the map, without visible holes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.adapters.detector import Inputs
from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas
from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.imputation import impute
from detxai.metrics.inputs.maps import where_known
from detxai.metrics.inputs.scores import ScoreFunction, check_score, distinct, scorer_of, scores_by_map
from detxai.metrics.insertion_deletion import pixel_ranks


@dataclass(frozen=True)
class ROAD:
    """The score that is left when the pixels ranked first, or last, are replaced by what their neighbours suggest.

    ``road`` is half the difference of these two scores, averaged over the fractions; it is 0 for a map that knows
    nothing. Pixels are ranked by the raw map, as in insertion and deletion. Scores are not divided by the clean score.

    Args:
        fractions: which shares of the pixels are removed, in (0, 1).
        noise: standard deviation added to imputed pixels, as a share of the image's own.
        score: how the detection is scored: see ``detxai.metrics.inputs.scores.detection_targets``.
        reference: which box and class are meant: those of the ``"detection"``, or those of its annotated ``"object"``.
        seed: of the ties and of the noise.
        batch_size: images at once; None: as many as fit on the device.

    Raises:
        ValueError: a setting is wrong.

    Source: Rong et al., 2022, ROAD (ICML), without retraining; ``road`` is grad-cam's combination of both orders.
    Differs in the fractions (five, not nine) and in the imputation's solver, see ``metrics.inputs.imputation.impute``.
    """

    name: ClassVar[str] = "road"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "road": Quantity("half the difference of the two scores below", -0.5, 0.5, "higher", 0.0),
        "road_most_first": Quantity("score left without the pixels ranked first", 0, 1, "lower"),
        "road_least_first": Quantity("score left without the pixels ranked last", 0, 1, "higher"),
    }

    fractions: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9)
    noise: float = 0.01
    score: ScoreFunction = "class_score"
    reference: Reference = "detection"
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < fraction < 1 for fraction in self.fractions):
            raise ValueError(f"fractions must be numbers in (0, 1), got {self.fractions!r}")
        if not self.noise >= 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")
        check_score(self.score)
        check_batch_size(self.batch_size)

    def __call__(self, case: Case) -> dict[str, Tensor]:
        most, least = removal_scores(case, self).mean(2).unbind(1)
        known = case.reference(self.reference)[2]
        return {
            "road": where_known((least - most) / 2, known),
            "road_most_first": where_known(most, known),
            "road_least_first": where_known(least, known),
        }


def removal_scores(case: Case, settings: ROAD) -> Tensor:
    """(T, 2, n_fractions): the scores without the pixels ranked first, and without those ranked last."""
    canvas = Canvas.with_fill(case.detector, case.image)
    clean, n_fractions = canvas.clean, len(settings.fractions)
    if not len(case):
        return clean.tensor.new_zeros(0, 2, n_fractions)
    ranks = pixel_ranks(canvas.from_image(distinct(case.maps)), settings.seed)
    n_pixels = ranks[0].numel()
    removed = torch.tensor([round(fraction * n_pixels) for fraction in settings.fractions], device=ranks.device)
    (top, left), (height, width) = canvas.geometry.offset, canvas.size
    inside = (..., slice(top, top + height), slice(left, left + width))

    def views(numbers: Tensor) -> Inputs:  # view number = (map, order, fraction), the last fastest
        place, last_first = numbers // (2 * n_fractions), (numbers // n_fractions % 2 == 1)[:, None, None]
        rank = torch.where(last_first, n_pixels - 1 - ranks[place], ranks[place])
        kept = rank >= removed[numbers % n_fractions][:, None, None]
        tensor = clean.tensor.expand(len(numbers), -1, -1, -1).clone()
        tensor[inside] = impute(clean.tensor[0][inside], kept, settings.noise, settings.seed)
        return clean.with_tensor(tensor)

    scores = scores_by_map(scorer_of(case, canvas, settings), views, len(ranks), 2 * n_fractions)
    return scores.view(len(case), 2, n_fractions)
