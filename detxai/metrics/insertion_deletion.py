"""Insertion and deletion: do the pixels ranked first make the detection, and unmake it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.adapters.adapter import Inputs
from detxai.engine.batching import check_batch_size
from detxai.engine.perturbing import Canvas, Filling
from detxai.engine.ranking import in_parts
from detxai.metrics.case import Case, Quantity, Reference
from detxai.metrics.maps import where_known
from detxai.metrics.scores import (
    ScoreFunction,
    check_score,
    clean_and_hidden,
    distinct,
    questions,
    scores_by_map,
)


@dataclass(frozen=True, eq=False)
class Curves:
    """The score of each of T detections while its pixels come and go, highest-ranked first.

    Attributes:
        fractions: (steps + 1,) from 0 to 1: which share of the pixels is shown (insertion) or hidden (deletion).
        insertion: (T, steps + 1) from the filling alone to the whole image.
        deletion: (T, steps + 1) from the whole image to the filling alone.
    """

    fractions: Tensor
    insertion: Tensor
    deletion: Tensor

    @property
    def clean(self) -> Tensor:
        """(T,) the score on the whole image."""
        return self.deletion[:, 0]

    @property
    def areas(self) -> tuple[Tensor, Tensor]:
        """(T,) the areas under the insertion and the deletion curve, by trapezoids."""
        insertion, deletion = (torch.trapezoid(curve, self.fractions) for curve in (self.insertion, self.deletion))
        return insertion, deletion


@dataclass(frozen=True)
class InsertionDeletion:
    """Area under the detection's score while the pixels appear, and while they vanish, in the order of the map.

    Pixels of the model's input are ranked by the raw map: what speaks against the box comes last. Ties fall as a seed
    says. At each step an equal number of them is added. ``overall`` is insertion minus deletion. A detector that is
    sure scores higher on both whatever the map, so the areas over the clean score stand beside; these are NaN
    where the clean score is 0.

    Figures compare only where fill, steps and score function are the same.

    Args:
        steps: how many; the curves have one point more.
        fill: what hidden pixels show: ``"black"``, ``"mean"``, ``"blur"``, ``"noise"``, or an RGB colour in [0, 1].
        score: what is left of the detection: see ``detxai.metrics.scores.questions``.
        reference: whose box and class: the ``"detection"``'s, or those of the annotated ``"object"`` it is of.
        seed: of the ties and of the noise.
        batch_size: images at once; None: what fits the device.

    Raises:
        ValueError: a setting is wrong.

    Source: Petsiuk et al., 2018, RISE (BMVC), its evaluation metrics; for detections Petsiuk et al., 2021, D-RISE
    (CVPR) and, with this score function, Chen et al., 2025, VPS (CVPR). Differs in the ranks of input pixels, not of
    regions or of the original's pixels, and in the one fill for both curves (RISE inserts into a blurred image).
    """

    name: ClassVar[str] = "insertion_deletion"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "insertion": Quantity("area under the score while pixels appear", 0, 1, "higher"),
        "deletion": Quantity("area under the score while pixels vanish", 0, 1, "lower"),
        "overall": Quantity("insertion minus deletion", -1, 1, "higher", 0.0),
        "insertion_normalised": Quantity("insertion over the clean score", 0, float("inf"), "higher"),
        "deletion_normalised": Quantity("deletion over the clean score", 0, float("inf"), "lower"),
        "overall_normalised": Quantity("overall over the clean score", -float("inf"), float("inf"), "higher", 0.0),
        "clean_score": Quantity("the score on the whole image", 0, 1, None),
    }

    steps: int = 100
    fill: Filling | Sequence[float] = "black"
    score: ScoreFunction = "class_score"
    reference: Reference = "detection"
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be a whole number from 1, got {self.steps!r}")
        check_score(self.score)
        check_batch_size(self.batch_size)

    def __call__(self, case: Case) -> dict[str, Tensor]:
        return self.summary(self.curves(case), case.reference(self.reference)[2])

    def curves(self, case: Case) -> Curves:
        """The curves of every detection of the case."""
        return insertion_deletion(case, self)

    def summary(self, curves: Curves, known: Tensor | None = None) -> dict[str, Tensor]:
        """The quantities that curves come to.

        Args:
            curves: of T detections.
            known: (T,) bool, which of them have a reference; None: all.
        """
        insertion, deletion = curves.areas
        known = torch.ones_like(insertion, dtype=torch.bool) if known is None else known
        raw = {"insertion": insertion, "deletion": deletion, "overall": insertion - deletion}
        scale = torch.where(curves.clean > 0, curves.clean, torch.nan)
        normalised = {f"{name}_normalised": area / scale for name, area in raw.items()}
        together = {**raw, **normalised, "clean_score": curves.clean}
        return {name: where_known(values, known) for name, values in together.items()}


def insertion_deletion(case: Case, settings: InsertionDeletion) -> Curves:
    """The curves of all T detections of an image: T * (steps - 1) * 2 + 2 passes, for they share both ends.

    Maps that are all the same make the same images, and these are passed once: (steps - 1) * 2 + 2.
    """
    detector, steps, n_targets = case.detector, settings.steps, len(case)
    canvas = Canvas.of(detector, case.image, settings.fill, settings.seed)
    targets = questions(case, settings.score, settings.reference)
    ranks = pixel_ranks(canvas.from_image(distinct(case.maps)), settings.seed)
    shown = pixels_at(steps, ranks[0].numel() if n_targets else 1).to(ranks.device)
    fractions = shown / shown[-1]
    if not n_targets:
        return Curves(fractions, fractions.new_zeros(0, steps + 1), fractions.new_zeros(0, steps + 1))
    clean, hidden = clean_and_hidden(canvas, detector, targets)
    between = steps - 1

    def make(numbers: Tensor) -> Inputs:  # image number = (map, curve, step), the last fastest
        place, curve = numbers // (2 * between), numbers // between % 2
        above = ranks[place] < shown[1 + numbers % between][:, None, None]
        return canvas.inputs(above ^ (curve == 1)[:, None, None])

    scores = scores_by_map(
        detector, targets, len(ranks), 2 * between, make, canvas.clean.tensor, settings.batch_size
    ).view(n_targets, 2, between)
    insertion = torch.cat([hidden[:, None], scores[:, 0], clean[:, None]], 1)
    return Curves(fractions, insertion, torch.cat([clean[:, None], scores[:, 1], hidden[:, None]], 1))


def pixels_at(steps: int, n_pixels: int) -> Tensor:
    """How many pixels have come by each step: (steps + 1,) int64 from 0 to all, as evenly as whole numbers go.

    >>> pixels_at(4, 10)
    tensor([ 0,  2,  5,  8, 10])
    """
    return torch.tensor([round(step * n_pixels / steps) for step in range(steps + 1)])


def pixel_ranks(maps: Tensor, seed: int = 0) -> Tensor:
    """Each pixel's place when they are sorted by value, highest first; equal ones in an order that the seed draws.

    Args:
        maps: (T, h, w).

    Returns:
        (T, h, w) int32, each number from 0 to h * w - 1 once.

    >>> pixel_ranks(torch.tensor([[[0.1, 0.9], [-1.0, 0.5]]]))
    tensor([[[2, 0],
             [3, 1]]], dtype=torch.int32)
    """
    n_pixels = maps.shape[1:].numel()
    shuffled = torch.randperm(n_pixels, generator=torch.Generator().manual_seed(seed)).to(maps.device)
    return in_parts(lambda part: _ranks(part, shuffled), maps)


def _ranks(maps: Tensor, shuffled: Tensor) -> Tensor:
    flat, n_pixels = maps.flatten(1), len(shuffled)
    order = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(n_pixels, dtype=torch.int32, device=flat.device)
    ranks = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places.expand_as(order))
    return ranks.view_as(maps)
