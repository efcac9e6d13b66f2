"""Infidelity: does the map foretell what hiding a patch does to the score?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.methods.checks import check_count
from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.maps import box_masks, where_known
from detxai.metrics.inputs.scores import ScoreFunction, check_score, scorer_of


@dataclass(frozen=True)
class Infidelity:
    """Mean squared error of the drop in score that the map predicts for a hidden square patch.

    The map's sum over the patch predicts the drop, times the positive factor that fits best. The raw map is taken, so
    evidence against the box predicts a rise. All detections of the image are asked about the same patches.
    ``infidelity_normalised`` is the error divided by that of a map of zeros: a map that predicts nothing, or the
    opposite, has 1. It is NaN if no patch changes the score. Any positive map predicts that larger patches do more, so
    the chance level is that of a flat map; a map of random numbers comes near it.

    Args:
        n_patches: how many squares are tried.
        smallest, largest: their sides, as shares of the image's shorter side.
        fill: what shows in the patch: see ``InsertionDeletion``.
        score: how the detection is scored: see ``detxai.metrics.inputs.scores.detection_targets``.
        reference: which box and class are meant: those of the ``"detection"``, or those of its annotated ``"object"``.
        seed: of the patches and of the noise.
        batch_size: images at once; None: as many as fit on the device.

    Raises:
        ValueError: a setting is wrong.

    Source: Yeh et al., 2019, On the (in)fidelity and sensitivity of explanations (NeurIPS), with square
    removal. Differs in taking a map of hiding effects, not a gradient (the perturbation is 1 on the patch), in
    the scale, which a heatmap does not have, and in that it may not be negative (an upside-down map is no good one).
    """

    name: ClassVar[str] = "infidelity"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "infidelity": Quantity("mean squared error of the predicted drop", 0, 1, "lower"),
        "infidelity_normalised": Quantity(
            "the error divided by that of a map of zeros", 0, 1, "lower", "infidelity_chance"
        ),
        "infidelity_chance": Quantity("the same for a map that is 1 everywhere", 0, 1, None),
    }

    n_patches: int = 100
    smallest: float = 0.1
    largest: float = 0.5
    fill: Filling | Sequence[float] = "black"
    score: ScoreFunction = "class_score"
    reference: Reference = "detection"
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_count("n_patches", self.n_patches, 1)
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(f"smallest <= largest must lie in (0, 1], got {self.smallest} and {self.largest}")
        check_score(self.score)
        check_batch_size(self.batch_size)

    def __call__(self, case: Case) -> dict[str, Tensor]:
        known = case.reference(self.reference)[2]
        areas, predicted, drops = predicted_and_measured_drops(case, self)
        nothing = drops.pow(2).mean(1)
        scale = torch.where(nothing > 0, nothing, torch.nan)
        error, flat = infidelity(predicted, drops), infidelity(areas.expand_as(drops), drops)
        return {
            "infidelity": where_known(error, known),
            "infidelity_normalised": where_known(error / scale, known),
            "infidelity_chance": where_known(flat / scale, known),
        }


def infidelity(predicted: Tensor, drops: Tensor) -> Tensor:
    """``min over b >= 0 of mean (b predicted - drop)^2``, for each row.

    Args:
        predicted: (T, n) the map's sums over the patches.
        drops: (T, n) what hiding them took off the score.

    Returns:
        (T,) from 0.

    >>> drops = torch.tensor([[1.0, 2.0, 3.0]])
    >>> infidelity(10 * drops, drops), infidelity(-drops, drops), infidelity(torch.tensor([[1.0, 0.0, 0.0]]), drops)
    (tensor([0.]), tensor([4.6667]), tensor([4.3333]))
    """
    power = predicted.pow(2).mean(1)
    agreement = (predicted * drops).mean(1).clamp(min=0)
    factor = agreement / torch.where(power > 0, power, 1)
    return (factor[:, None] * predicted - drops).pow(2).mean(1)


def predicted_and_measured_drops(case: Case, settings: Infidelity) -> tuple[Tensor, Tensor, Tensor]:
    """The patches' areas (n,), and what each takes off the score, as the map predicts it and as it does: (T, n)."""
    canvas = Canvas.with_fill(case.detector, case.image, settings.fill, settings.seed)
    patches = random_squares(settings, canvas.size).to(canvas.clean.tensor.device)
    areas = (patches[:, 2:] - patches[:, :2]).prod(1)
    if not len(case):
        return areas, areas.new_zeros(0, len(patches)), areas.new_zeros(0, len(patches))
    scorer = scorer_of(case, canvas, settings)
    scores = scorer.under_masks(lambda part: ~box_masks(patches[part], canvas.size), range(len(patches)))
    _, clean = scorer.ends()
    return areas, patch_sums(canvas.from_image(case.maps), patches), clean[:, None] - scores


def random_squares(settings: Infidelity, size: tuple[int, int]) -> Tensor:
    """(n, 4) xyxy whole pixels within (height, width): every side length and every place equally likely."""
    height, width = size
    drawn = torch.rand(settings.n_patches, 3, generator=torch.Generator().manual_seed(settings.seed))
    shorter = min(size)
    side = (shorter * (settings.smallest + (settings.largest - settings.smallest) * drawn[:, 0])).round().clamp(min=1)
    left, top = (
        ((extent - side + 1) * share).floor() for extent, share in ((width, drawn[:, 1]), (height, drawn[:, 2]))
    )
    return torch.stack([left, top, left + side, top + side], 1)


def patch_sums(maps: Tensor, patches: Tensor) -> Tensor:
    """Sum of each map (T, h, w) within each patch (n, 4) of whole pixels: (T, n), from one table of running sums."""
    wide = maps if maps.device.type == "mps" else maps.double()  # MPS has no float64
    table = torch.nn.functional.pad(wide.cumsum(1).cumsum(2), (1, 0, 1, 0))
    x1, y1, x2, y2 = patches.long().unbind(1)
    return (table[:, y2, x2] - table[:, y1, x2] - table[:, y2, x1] + table[:, y1, x1]).float()
