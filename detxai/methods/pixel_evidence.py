"""Pixel evidence, the default: the Shapley values of regions, started from what one pass through the network says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.adapter import Adapter
from detxai.adapters.own_context import in_full_precision
from detxai.detections import Detections
from detxai.engine.masking.best_pixels import VIEWS_A_MAP, try_best_pixels
from detxai.engine.masking.decisive import decisive_cells
from detxai.engine.masking.shapley import Densities, density_per_image_pixel
from detxai.engine.perturbing import Canvas
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image
from detxai.methods.d_rise import DRISE
from detxai.methods.layer_cam import LayerCAM
from detxai.methods.region_shapley import (
    FEWEST_PASSES,
    Fill,
    RegionShapley,
    boxes_on,
    check_count,
    check_sampling,
    fills_of,
)
from detxai.targets import ClassScoreTarget, Target, ask_about

log = logging.getLogger(__name__)

FEWEST_MASKS = 32


@dataclass(frozen=True)
class PixelEvidence:
    """How much each pixel speaks for the box: what its region adds to the score, whatever else can be seen.

    Three accounts of the same sum, ``score(whole image) - score(nothing shown)``, as densities over the pixels:

    - *Draws* D: the density of Shapley values for one random way to cut the image, under every filling (the page of
      ``RegionShapley`` derives it). Sharp, right on average, noisy for few.
    - *Soft masks* R: D-RISE's slopes, by regression (the page of ``DRISE``), what is positive of them. Blunt and
      steady, good where the cause is small or far away; one set of masks serves all boxes of the image.
    - The *start* S costs one pass: half of it is a hill over the box, since objects are mostly in the middle of their
      boxes, and half LayerCAM, where the detector is a network.

    They are joined as priors and data are, S counting as k draws and R as m:

        ``values = (sum of n draws + k S + m R) / (n + k + m)``

    In the end S, the joined map, and the joined map without R are tried on views that none was made from: their best
    pixels, a quarter, half and all of the box's area, are shown alone, and hidden alone. The best one is kept, so that
    the map never ends worse than it began; ``details["kept"]`` says which it is.

    Args:
        max_passes: views of the image for each box, on average over the boxes. Boxes whose map is known well enough
            stop early, hard ones go on. Below about 130 the map is the start.
        tolerance: in (0, 1): a box needs no more views when another seed's draws would correlate with these by
            1 - ``tolerance`` or more.
        start_draws: k, how many draws the start counts as; 0 leaves it out.
        mask_draws: m, how many draws the soft masks count as; 0 leaves them out.
        mask_share: in [0, 1), how much of ``max_passes`` goes to the soft masks; they are shared by all boxes.
        ignore_below: in [0, 1), as a share of the clean score: smaller changes of the score are not looked into.
        refine: how many regions of each partition to cut in four, where the density so far is largest.
        decisive: whether to look, with some 20 passes more a box, for the smallest sets of cells, in the order of the
            map, that keep the box and whose removal loses it: ``details["sufficient"]`` and ``details["necessary"]``.
        fill: what is seen where the image is hidden, or several such, over which the draws are averaged: see
            ``RegionShapley``.
        seed: of the draws; batch size changes nothing.
        target: from a detection's box and label to the question asked of it.
        batch_size: views at once; None: what fits the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        keep_partial: whether Ctrl-C ends the work and gives the map of the draws so far, marked ``partial``.
        progress: a bar; None: where standard error is a terminal.

    Source: detxai's own; the parts are those of ``RegionShapley`` and ``LayerCAM``.
    """

    name: ClassVar[str] = "pixel_evidence"
    asks_about_boxes: ClassVar[bool] = True

    max_passes: int = 300
    tolerance: float = 0.15
    start_draws: float = 2.5
    mask_draws: float = 5.0
    mask_share: float = 0.3
    ignore_below: float = 0.1
    refine: int = 6
    decisive: bool = False
    fill: Fill = ("black", "mean")
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    precision: str = "full"
    keep_partial: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_count("max_passes", self.max_passes, 1)
        check_count("refine", self.refine, 0)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {self.tolerance!r}")
        for name in ("start_draws", "mask_draws"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number from 0, got {getattr(self, name)!r}")
        if not 0 <= self.mask_share < 1:
            raise ValueError(f"mask_share must lie in [0, 1), got {self.mask_share!r}")
        if not 0 <= self.ignore_below < 1:
            raise ValueError(f"ignore_below must lie in [0, 1), got {self.ignore_below!r}")
        check_sampling(self)

    @in_full_precision
    def __call__(self, detector: Adapter, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel.

        Raises:
            ValueError: a setting or a label is wrong.
        """
        clock = time.perf_counter()
        if len(detections) == 0:
            return []
        canvas = Canvas.with_fills(detector, image, fills_of(self.fill), self.seed)
        targets, boxes = ask_about(detections, self.target), boxes_on(canvas, detections)
        settings = {"batch_size": self.batch_size, "precision": self.precision}
        shapes, names = self._start(detector, image, canvas, detections)
        known, partial = self._draws(detector, canvas, detections)
        n_passes = len(names) + len(canvas.filling) + 1 + int(known.n_views.sum())
        total = (known.whole - known.hidden.mean(1)).clamp(min=0)[:, None, None]
        start = self.start_draws, shapes * total
        maps = {"start": (start[1], torch.zeros_like(start[1])), "joined": join(known, [start])}
        if self._n_masks and not partial and bool((known.n_draws > 0).any()):
            soft = self.mask_draws, self._soft_masks(detector, image, canvas, detections, shapes) * total
            maps["joined with soft masks"] = join(known, [start, soft])
            n_passes += self._n_masks
        tried = torch.zeros(len(maps), len(targets), device=boxes.device)
        if not partial and bool((known.n_draws > 0).any()):
            candidates = torch.stack([values for values, _ in maps.values()])
            tried = try_best_pixels(detector, canvas, targets, candidates, boxes, settings)
            n_passes += VIEWS_A_MAP * tried.numel()
        values, errors, kept = best_of(maps, tried)
        details = [
            {**known.record(box), "start": names, **told} for box, told in zip(range(len(targets)), kept, strict=True)
        ]
        if self.decisive:
            sets, n_more = decisive_cells(detector, canvas, targets, values, boxes, settings)
            n_passes += n_more
            details = [told | found for told, found in zip(details, sets, strict=True)]
        drawn, bars = (density_per_image_pixel(canvas, one).cpu().numpy() for one in (values, errors))
        cost = Cost(time.perf_counter() - clock, n_passes)
        return [
            Explanation(
                drawn[i], canvas.clean.images[0], self.name, settings_of(self), cost, detections[i],
                model=detector.describe(), standard_error=bars[i], partial=partial, details=details[i],
            )
            for i in range(len(detections))
        ]  # fmt: skip

    @property
    def _n_masks(self) -> int:
        """Soft masks for the image; none where they would be too few to tell anything."""
        n = int(self.max_passes * self.mask_share) if self.mask_draws else 0
        return n if n >= FEWEST_MASKS else 0

    def _draws(self, detector: Adapter, canvas: Canvas, detections: Detections) -> tuple[Densities, bool]:
        """As many draws as the soft masks and the trial leave views for; none where that is too few."""
        n_views = self.max_passes - -(-self._n_masks // len(detections)) - 3 * VIEWS_A_MAP - 1
        shapley = RegionShapley(
            max(n_views, FEWEST_PASSES), self.ignore_below, refine=self.refine, fill=self.fill, seed=self.seed,
            target=self.target, batch_size=self.batch_size, precision=self.precision, keep_partial=self.keep_partial,
            progress=self.progress,
        )  # fmt: skip
        settled, only_ends = 1 - self.tolerance, n_views < FEWEST_PASSES
        return shapley.densities(detector, canvas, detections, settled, only_ends=only_ends)

    def _soft_masks(
        self, detector: Adapter, image: Image, canvas: Canvas, detections: Detections, shapes: Tensor
    ) -> Tensor:
        """What is positive of D-RISE's slopes, (T, h, w), each summing to 1; the start's shape where nothing is."""
        masking = DRISE(
            self._n_masks, self.seed, fill=fills_of(self.fill)[-1], target=self.target,
            variance_reduction="regression", batch_size=self.batch_size, precision=self.precision,
            progress=self.progress,
        )  # fmt: skip
        sample = masking.sample(detector, image, detections)
        slopes = sample.lattice.to_pixels(masking.estimate(sample).values, canvas.size).clamp(min=0)
        sums = slopes.sum((1, 2), keepdim=True)
        return torch.where(sums > 0, slopes / sums.clamp(min=torch.finfo(slopes.dtype).tiny), shapes)

    def _start(
        self, detector: Adapter, image: Image, canvas: Canvas, detections: Detections
    ) -> tuple[Tensor, list[str]]:
        """The start's shape (T, h, w), each summing to 1, and what it is made of."""
        parts, names = [hills(canvas.size, boxes_on(canvas, detections))], ["box_centre"]
        if detector.has_network:
            try:
                found = LayerCAM(target=self.target)(detector, image, detections)
            except ValueError as error:  # a target of the user's own need not have gradients
                log.info("the start does without LayerCAM: %s", error)
            else:
                values = torch.stack([torch.from_numpy(one.values) for one in found]).to(canvas.clean.tensor.device)
                parts.append(canvas.from_image(values).clamp(min=0))
                names.append("layer_cam")
        sums = [part.sum((1, 2), keepdim=True) for part in parts]
        shares = [torch.where(total > 0, part / total, parts[0] / sums[0]) for part, total in zip(parts, sums)]
        return torch.stack(shares).mean(0), names


def join(known: Densities, priors: Sequence[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
    """``(sum of the draws + sum of k P) / (n + sum of k)``, (T, h, w), and its standard error from the draws.

    Args:
        known: the n draws of each of T boxes.
        priors: how many draws k each prior counts as, and the prior (T, h, w); at least one.
    """
    n = known.n_draws[:, None, None].float()
    counts_as = sum(k for k, _ in priors)
    weights = torch.tensor([k / counts_as if counts_as else 1 / len(priors) for k, _ in priors]).to(known.sums)
    prior = torch.einsum("p,pthw->thw", weights, torch.stack([map_ for _, map_ in priors]))
    weight = torch.where(n > 0, n / (n + counts_as).clamp(min=1), 0)
    error = torch.where(n > 1, known.standard_error, 0) * weight
    return torch.lerp(prior, known.mean, weight), error


def best_of(maps: Mapping[str, tuple[Tensor, Tensor]], tried: Tensor) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """For each of T boxes the map that did best: its values and standard errors (T, h, w), and what to say of it.

    Args:
        maps: M of them, by name, from the one that knows least to the one that knows most: values and standard errors.
        tried: (M, T) how each did; of equals the one that knows most is kept.
    """
    names = list(maps)
    best = len(names) - 1 - tried.flip(0).argmax(0)
    rows = torch.arange(len(best), device=best.device)
    values, errors = (torch.stack([pair[part] for pair in maps.values()])[best, rows] for part in (0, 1))
    told = [
        {"kept": names[place], "tried": dict(zip(names, scores, strict=True))}
        for place, scores in zip(best.tolist(), tried.T.tolist(), strict=True)
    ]
    return values, errors, told


def hills(size: tuple[int, int], boxes: Tensor) -> Tensor:
    """(T, h, w): ``exp(-(dx / w)^2 - (dy / h)^2)``, d the distance to the box's centre, w and h half its sides.

    Args:
        size: (height, width) in pixels.
        boxes: (T, 4) xyxy in those pixels.
    """
    sides = []
    for axis in (1, 0):  # down, then across
        middle = (boxes[:, axis] + boxes[:, axis + 2]) / 2
        half = ((boxes[:, axis + 2] - boxes[:, axis]) / 2).clamp(min=0.5)
        pixels = torch.arange(size[1 - axis], device=boxes.device, dtype=boxes.dtype) + 0.5
        sides.append(torch.exp(-(((pixels - middle[:, None]) / half[:, None]) ** 2)))
    return sides[0][:, :, None] * sides[1][:, None, :]
