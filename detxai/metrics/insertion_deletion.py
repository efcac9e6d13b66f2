"""Insertion and deletion: do the pixels ranked first make the detection, and unmake it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.detector import Inputs
from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas, Filling, filling_image
from detxai.engine.masking.regions import Partitions, import_slic, superpixels
from detxai.engine.rank_correlation import in_parts
from detxai.methods.checks import check_choice, check_count
from detxai.metrics.inputs.case import Case, Quantity, Reference
from detxai.metrics.inputs.maps import where_known
from detxai.metrics.inputs.scores import ScoreFunction, check_score, distinct, scorer_of, scores_by_map

Unit = Literal["pixel", "superpixel"]
UNITS: tuple[Unit, ...] = get_args(Unit)
N_SUPERPIXELS = 100  # so that each is about as wide as the square root of a hundredth of the image


@dataclass(frozen=True, eq=False)
class Curves:
    """The score of each of T detections while its pixels come and go, highest-ranked first.

    Attributes:
        fractions: (steps + 1,), or (T, steps + 1) where regions of different sizes come and go: from 0 to 1, which
            share of the pixels is shown (insertion) or hidden (deletion).
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


QUANTITIES: dict[str, Quantity] = {
    "insertion": Quantity("area under the curve of the score while pixels appear", 0, 1, "higher"),
    "deletion": Quantity("area under the curve of the score while pixels are hidden", 0, 1, "lower"),
    "overall": Quantity("insertion minus deletion", -1, 1, "higher", 0.0),
    "insertion_normalised": Quantity("insertion divided by the clean score", 0, float("inf"), "higher"),
    "deletion_normalised": Quantity("deletion divided by the clean score", 0, float("inf"), "lower"),
    "overall_normalised": Quantity("overall divided by the clean score", -float("inf"), float("inf"), "higher", 0.0),
    "clean_score": Quantity("the score on the whole image", 0, 1, None),
}


@dataclass(frozen=True)
class InsertionDeletion:
    """Area under the detection's score while the pixels appear, and while they vanish, in the order of the map.

    Pixels of the model's input are ranked by the raw map: evidence against the box comes last. A seed decides ties. At
    each step an equal number of pixels is added. ``overall`` is insertion minus deletion. A confident detector has
    larger areas whatever the map is, so the areas divided by the clean score are given too. These are NaN if the clean
    score is 0.

    Compare only figures with the same fill, steps, unit and score function. A method that uses the same fill itself is
    favoured, so take several fills. T detections cost ``2 T F (steps - 1) + F + 1`` passes under F fills.

    Args:
        steps: how many; the curves have one point more. The default is what two processor cores afford for a few dozen
            boxes; published figures take 50 to 100.
        fill: what hidden pixels show: ``"black"``, ``"mean"``, ``"blur"``, ``"noise"``, or an RGB colour in [0, 1]; or
            several of the names, and every quantity but ``clean_score`` then ends in its fill: ``overall_blur``.
        unit: what comes and goes: a ``"pixel"``, or a ``"superpixel"``, one of about 100 that follow the image's edges
            (SLIC, by scikit-image), ranked by the mean of the map. The areas are then over the share of the pixels.
        score: how the detection is scored: see ``detxai.metrics.inputs.scores.detection_targets``.
        reference: which box and class are meant: those of the ``"detection"``, or those of its annotated ``"object"``.
        seed: of the ties and of the noise.
        batch_size: images at once; None: as many as fit on the device.

    Raises:
        ValueError: a setting is wrong.
        ImportError: ``unit`` is ``"superpixel"`` and scikit-image is not installed.

    Source: Petsiuk et al., 2018, RISE (BMVC), its evaluation metrics; for detections Petsiuk et al., 2021, D-RISE
    (CVPR) and, with this score function, Chen et al., 2025, VPS (CVPR). Differs in the ranks of input pixels, not of
    the original's, and in the one fill for both curves (RISE inserts into a blurred image). Superpixels as in the
    replay of PhaseWin (CVPR 2026), but for SLIC with a fixed compactness of 20 in the place of SLICO.
    """

    name: ClassVar[str] = "insertion_deletion"
    quantities: ClassVar[Mapping[str, Quantity]] = QUANTITIES

    steps: int = 12
    fill: Filling | Sequence[float] | Sequence[Filling] = "black"
    unit: Unit = "pixel"
    score: ScoreFunction = "class_score"
    reference: Reference = "detection"
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1)
        check_choice("unit", self.unit, UNITS)
        if self.unit == "superpixel":
            import_slic()
        for fill in self.fills:
            filling_image(np.zeros((1, 1, 3), dtype=np.uint8), fill)
        if len(set(map(str, self.fills))) < len(self.fills):
            raise ValueError(f"fill must not name one twice, got {self.fill!r}")
        check_score(self.score)
        check_batch_size(self.batch_size)
        if len(self.fills) > 1:  # the class's own are those of one fill
            object.__setattr__(self, "quantities", self._quantities())

    @property
    def fills(self) -> list[Any]:
        """The fills, each by itself."""
        several = not isinstance(self.fill, str) and len(self.fill) > 0 and isinstance(self.fill[0], str)
        return list(self.fill) if several else [self.fill]

    def _quantities(self) -> dict[str, Quantity]:
        named = {
            f"{name}_{fill}": replace(about, meaning=f"{about.meaning}, {fill} fill")
            for fill in self.fills
            for name, about in QUANTITIES.items()
            if name != "clean_score"
        }
        return {**named, "clean_score": QUANTITIES["clean_score"]}

    def fill_of(self, quantity: str) -> Any:
        """Which fill a quantity was measured under; None for the clean score of several."""
        if len(self.fills) == 1:
            return self.fills[0]
        return next((fill for fill in self.fills if quantity.endswith(f"_{fill}")), None)

    def __call__(self, case: Case) -> dict[str, Tensor]:
        return self.summaries(self.curves_by_fill(case), case.reference(self.reference)[2])

    def curves(self, case: Case) -> Curves:
        """The curves of every detection of the case, under the first fill."""
        return self.curves_by_fill(case)[0]

    def curves_by_fill(self, case: Case) -> list[Curves]:
        """The curves of every detection of the case, one for each fill."""
        return insertion_deletion(case, self)

    def summaries(self, curves: Sequence[Curves], known: Tensor | None = None) -> dict[str, Tensor]:
        """The quantities that the curves of each fill come to, under their names: see ``summary``."""
        if len(self.fills) == 1:
            return self.summary(curves[0], known)
        found: dict[str, Tensor] = {}
        for fill, under in zip(self.fills, curves, strict=True):
            values = self.summary(under, known)
            clean = values.pop("clean_score")
            found |= {f"{name}_{fill}": value for name, value in values.items()}
        return {**found, "clean_score": clean}

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


def insertion_deletion(case: Case, settings: InsertionDeletion) -> list[Curves]:
    """The curves of all T detections of an image under each of F fills.

    That is ``2 T F (steps - 1) + F + 1`` passes, for all share the whole image, and those of a fill its other end. Maps
    that are all the same make the same images, and these are passed once: ``2 F (steps - 1) + F + 1``.
    """
    n_targets, n_fills = len(case), len(settings.fills)
    canvas = Canvas.with_fills(case.detector, case.image, settings.fills, settings.seed)
    ranks, areas = ranks_and_areas(canvas, case, settings)
    n_units = areas.shape[1] - 1
    shown = pixels_at(min(settings.steps, n_units), n_units).to(ranks.device)
    fractions = areas[:, shown] / areas[:, -1:]
    if not n_targets:
        nothing = fractions.new_zeros(0, len(shown))
        return [Curves(shown / shown[-1], nothing, nothing)] * n_fills
    scorer = scorer_of(case, canvas, settings)
    hidden, clean = scorer.ends()
    between = len(shown) - 2

    def views(numbers: Tensor) -> Inputs:  # view number = (map, fill, curve, step), the last fastest
        place, fill, curve = numbers // (n_fills * 2 * between), numbers // (2 * between), numbers // between % 2
        above = ranks[place] < shown[1 + numbers % between][:, None, None]
        return canvas.inputs(above ^ (curve == 1)[:, None, None], fill % n_fills)

    scores = scores_by_map(scorer, views, len(ranks), n_fills * 2 * between).view(n_targets, n_fills, 2, between)
    fractions = fractions[0] if settings.unit == "pixel" else fractions.expand(n_targets, -1)
    whole = clean[:, None]
    return [
        Curves(
            fractions,
            torch.cat([hidden[:, fill, None], scores[:, fill, 0], whole], 1),
            torch.cat([whole, scores[:, fill, 1], hidden[:, fill, None]], 1),
        )
        for fill in range(n_fills)
    ]


def ranks_and_areas(canvas: Canvas, case: Case, settings: InsertionDeletion) -> tuple[Tensor, Tensor]:
    """When each pixel of the canvas comes, and what has come by then.

    Returns:
        ranks (T, h, w) int32, how many units come before that of each pixel, and areas (T, n + 1), how many pixels the
        first 0 to n units have together. T is 1 where all maps are the same.
    """
    maps = canvas.from_image(distinct(case.maps))
    n_pixels = maps.shape[1:].numel()
    if settings.unit == "pixel":
        return pixel_ranks(maps, settings.seed), torch.arange(n_pixels + 1, device=maps.device)[None]
    photo = torch.from_numpy(case.image).to(maps.device).permute(2, 0, 1) / 255
    regions = superpixels(canvas.from_image(photo).clamp(0, 1), N_SUPERPIXELS)
    return region_ranks(maps, regions, settings.seed)


def region_ranks(maps: Tensor, regions: Partitions, seed: int = 0) -> tuple[Tensor, Tensor]:
    """As ``ranks_and_areas``, of the regions of one partition by the mean of the map, ties as the seed says.

    >>> region_ranks(torch.tensor([[[1.0, 0.0, 2.0]]]), Partitions.from_labels(torch.tensor([[[0, 0, 1]]])))
    (tensor([[[1, 1, 0]]], dtype=torch.int32), tensor([[0, 1, 3]]))
    """
    labels, sizes = regions.labels[0], regions.areas[0]
    sums = maps.new_zeros(len(maps), len(sizes)).index_add_(1, labels.flatten(), maps.flatten(1))
    places = pixel_ranks((sums / sizes)[:, None], seed)[:, 0]
    in_order = torch.zeros_like(sums).scatter_(1, places.long(), sizes.expand_as(sums)).long()
    return places[:, labels], torch.cat([torch.zeros_like(in_order[:, :1]), in_order.cumsum(1)], 1)


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
