"""Pixel evidence, the default: the Shapley values of regions, started from what one pass through the network says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.adapter import Adapter
from detxai.adapters.own_context import in_full_precision
from detxai.detections import Detections
from detxai.engine.masking.best_pixels import VIEWS_A_MAP, try_best_pixels
from detxai.engine.masking.decisive import decisive_cells
from detxai.engine.masking.regions import outside_boxes
from detxai.engine.masking.shapley import Densities, density_per_image_pixel, spend
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
    stopped_early,
    views_bar,
)
from detxai.targets import ClassScoreTarget, Target, ask_about

log = logging.getLogger(__name__)

FEWEST_MASKS = 32
FAR = 0.2  # of the evidence, outside the box and a margin around it, from which soft masks are asked too
N_VIEWS_ON_TRIAL = 2 * VIEWS_A_MAP
DOUBT = 0.05  # of the clean score, within which a trial of so few views tells nothing


@dataclass(frozen=True)
class PixelEvidence:
    """How much each pixel speaks for the box: what its region adds to the score, whatever else can be seen.

    Three accounts of the same sum, ``score(whole image) - score(nothing shown)``, as densities over the pixels:

    - *Draws* D: the density of Shapley values for one random way to cut the image, under every filling (the page of
      ``RegionShapley`` derives it). Sharp, right on average, noisy for few.
    - The *start* S costs one pass: half of it is a hill over the box, since objects are mostly in the middle of their
      boxes, and half LayerCAM, where the detector is a network.
    - *Soft masks* R, only where the draws find more than a fifth of the evidence far from the box: D-RISE's slopes, by
      regression (the page of ``DRISE``), what is positive of them. Blunt and steady, they find a small cause far away
      that large regions smear; one set of masks serves all such boxes of the image.

    They are joined as priors and data are, S counting as k draws and R as m:

        ``values = (sum of n draws + k S + m R) / (n + k + m)``

    With no draws the map *is* the start, with many the start is forgotten. In the end both are tried on views that
    neither was made from: their best pixels, a quarter, half and all of the box's area, are shown alone, and hidden
    alone. Where the start does better by more than a twentieth of the clean score it is kept: the map does not end
    worse than it began. ``details["kept"]`` says which it is.

    Args:
        max_passes: views of the image for each box, on average over the boxes. Boxes whose map is known well enough
            stop early, hard ones go on. Below about 80 the map is the start.
        tolerance: in (0, 1): a box needs no more views when another seed's draws would correlate with these by
            1 - ``tolerance`` or more.
        start_draws: k, how many draws the start counts as; 0 leaves it out.
        mask_draws: m, how many draws the soft masks count as; 0 leaves them out.
        mask_share: in [0, 1), how much of ``max_passes`` goes to the soft masks, where they are asked.
        ignore_below: in [0, 1), as a share of the clean score: smaller changes of the score are not looked into.
        refine: how many large regions of each partition to cut in four, where the density so far is largest.
        decisive: whether to look, with some 20 passes more a box, for the smallest sets of cells, in the order of the
            map, that keep the box and whose removal loses it: ``details["sufficient"]`` and ``details["necessary"]``.
        fill: what is seen where the image is hidden, or several such, over which the draws are averaged: see
            ``RegionShapley``. Soft masks take the last of them.
        seed: of the draws; batch size changes nothing.
        target: from a detection's box and label to the question asked of it.
        batch_size: views at once; None: what fits the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        keep_partial: whether Ctrl-C ends the work and gives the map of the draws so far, marked ``partial``.
        progress: a bar; None: where standard error is a terminal.

    Source: detxai's own; the parts are those of ``RegionShapley``, ``LayerCAM`` and ``DRISE``.
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
        for name in ("mask_share", "ignore_below"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)!r}")
        check_sampling(self)

    def most_passes(self, n_boxes: int) -> int:
        """How many passes ``n_boxes`` boxes of one image take at most, to be told before they start."""
        return self.max_passes * n_boxes

    @in_full_precision
    def __call__(self, detector: Adapter, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel; None where the start was kept.

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
        views = self._views(detector, image, canvas, detections, shapes)
        total = (views.known.whole - views.known.hidden.mean(1)).clamp(min=0)[:, None, None]
        start, n_passes = shapes * total, len(names) - 1 + views.n_passes  # the hill takes none
        as_draws = torch.full_like(views.known.whole, self.start_draws)
        values, errors = join(views.known, [(as_draws, start), (self.mask_draws * views.far, views.soft * total)])
        details = [told | {"start": names} for told in views.records()]
        if views.can_be_tried:
            both = torch.stack([start, values])
            tried = try_best_pixels(detector, canvas, targets, both, boxes, settings)
            n_passes += VIEWS_A_MAP * tried.numel()
            worse = tried[0] > tried[1] + DOUBT * views.known.whole
            keeps = worse[:, None, None]
            values, errors = torch.where(keeps, start, values), torch.where(keeps, 0, errors)
            for told, keeps_start, scores in zip(details, worse.tolist(), tried.T.tolist(), strict=True):
                told |= {"kept": "start" if keeps_start else "joined", "tried": dict(zip(("start", "joined"), scores))}
        if self.decisive:
            sets, n_more = decisive_cells(detector, canvas, targets, values, boxes, settings)
            n_passes += n_more
            details = [told | found for told, found in zip(details, sets, strict=True)]
        drawn, bars = (density_per_image_pixel(canvas, one).cpu().numpy() for one in (values, errors))
        cost = Cost(time.perf_counter() - clock, n_passes)
        return [
            Explanation(
                drawn[i], canvas.clean.images[0], self.name, settings_of(self), cost, detections[i],
                model=detector.describe(), standard_error=bars[i] if bars[i].any() else None, partial=views.partial,
                details=details[i],
            )
            for i in range(len(detections))
        ]  # fmt: skip

    def _views(self, detector: Adapter, image: Image, canvas: Canvas, detections: Detections, shapes: Tensor) -> _Views:
        """The draws, and the soft masks where the draws point far from the box.

        All but the masks' share of the views goes to draws; what they find decides whether the rest does too.
        """
        n_ends, n_boxes = len(canvas.filling) + 1, len(detections)
        n_masks = int(self.max_passes * self.mask_share) if self.mask_draws else 0
        n_masks = n_masks if n_masks >= FEWEST_MASKS else 0
        max_views = (self.max_passes - N_VIEWS_ON_TRIAL - 1) * n_boxes - n_ends
        shapley = RegionShapley(
            FEWEST_PASSES, self.ignore_below, refine=self.refine, fill=self.fill, seed=self.seed, target=self.target,
            batch_size=self.batch_size, precision=self.precision,
        )  # fmt: skip
        with detector.borrowed(), views_bar(self.progress, max_views) as bar:
            sampler = shapley.sampler(detector, canvas, detections, bar.update)
            known = sampler.start()
            far, soft, partial = torch.zeros_like(known.whole), torch.zeros_like(shapes), False
            if max_views < FEWEST_PASSES * n_boxes:
                return _Views(known, far, soft, far, n_ends, partial)

            def draw(n_left_out: int) -> bool:
                n_views = max_views - n_left_out - int(known.n_views.sum())
                return stopped_early(
                    lambda: spend(sampler, known, n_views, 1 - self.tolerance), known, self.keep_partial
                )

            partial = draw(n_masks)
            outside = outside_boxes(known.mean, sampler.boxes)
            if n_masks and not partial:
                far = (outside > FAR).to(known.whole)
                n_masks = n_masks if bool(far.any()) else 0
                if n_masks:
                    soft = self._soft_masks(detector, image, canvas, detections, shapes, n_masks)
                partial = draw(n_masks)
        return _Views(known, far, soft, outside, n_ends + int(known.n_views.sum()) + n_masks, partial)

    def _soft_masks(
        self,
        detector: Adapter,
        image: Image,
        canvas: Canvas,
        detections: Detections,
        shapes: Tensor,
        n_masks: int,
    ) -> Tensor:
        """What is positive of D-RISE's slopes, (T, h, w), each summing to 1; the start's shape where nothing is."""
        masking = DRISE(
            n_masks, self.seed, fill=fills_of(self.fill)[-1], target=self.target, variance_reduction="regression",
            batch_size=self.batch_size, precision=self.precision, progress=False,
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


@dataclass(frozen=True, eq=False)
class _Views:
    """What the views of T boxes came to.

    Attributes:
        known: the draws.
        far: (T,) 1 where soft masks were asked, else 0.
        soft: (T, h, w) the soft masks' shape; zeros where there is none.
        outside: (T,) in [0, 1], how much of the draws' evidence lies far from the box.
        n_passes: how many views there were.
        partial: whether Ctrl-C cut them short.
    """

    known: Densities
    far: Tensor
    soft: Tensor
    outside: Tensor
    n_passes: int
    partial: bool

    @property
    def can_be_tried(self) -> bool:
        return not self.partial and bool((self.known.n_draws > 0).any())

    def records(self) -> list[dict[str, Any]]:
        """What became of each box, as JSON can hold it."""
        own = zip(self.known.records(), self.outside.tolist(), self.far.tolist(), strict=True)
        return [told | {"outside_box": outside, "soft_masks": bool(far)} for told, outside, far in own]


def join(known: Densities, priors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """``(sum of the draws + sum of k P) / (n + sum of k)``, (T, h, w), and its standard error from the draws.

    Args:
        known: the n draws of each of T boxes.
        priors: how many draws k (T,) each prior counts as, and the prior (T, h, w); at least one. Without draws, and
            where no prior counts, the first one is all there is.
    """
    counts = torch.stack([count for count, _ in priors])
    counts[0] = torch.where((known.n_draws == 0) & (counts.sum(0) == 0), 1, counts[0])
    n, weight = known.n_draws.to(known.sums), counts.to(known.sums)
    joined = known.sums + torch.einsum("pt,pthw->thw", weight, torch.stack([map_ for _, map_ in priors]))
    whole = (n + weight.sum(0))[:, None, None]
    errors = torch.where(n[:, None, None] > 1, known.standard_error, 0) * n[:, None, None] / whole
    return joined / whole, errors


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
