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
from detxai.engine.estimating import Estimate
from detxai.engine.masking.best_pixels import VIEWS_A_MAP, try_best_pixels
from detxai.engine.masking.decisive import decisive_cells
from detxai.engine.masking.shapley import Densities, density_per_image_pixel, join, spend
from detxai.engine.masking.soft import soft_masks
from detxai.engine.perturbing import Canvas
from detxai.explanation import Cost, Explanation, settings_of
from detxai.geometry import hills
from detxai.images import Image
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
from detxai.targets import ClassScoreTarget, ContrastTarget, Target, ask_about

log = logging.getLogger(__name__)

FEWEST_MASKS = 32
CANDIDATES = ("start", "draws", "draws and masks", "masks")
N_VIEWS_ON_TRIAL = VIEWS_A_MAP * len(CANDIDATES)
DOUBT = 0.1  # of the clean score, by which another map must do better on trial before the masks are left


@dataclass(frozen=True)
class PixelEvidence:
    """How much each pixel speaks for the box: what its region adds to the score, whatever else can be seen.

    Three accounts of the same sum, ``score(whole image) - score(nothing shown)``, as densities over the pixels:

    - *Draws* D: the density of Shapley values for one random way to cut the image, under every filling (the page of
      ``RegionShapley`` derives it). Sharp, right on average, noisy for few.
    - The *start* S costs one pass: half of it is a hill over the box, since objects are mostly in the middle of their
      boxes, and half LayerCAM, where the detector is a network.
    - *Soft masks* R: D-RISE's slopes, by regression (the page of ``DRISE``), what is positive of them. Blunt and
      steady: they find a small cause, in the box or far away, that few draws miss. One set of masks serves all boxes
      of the image. They ask ``ContrastTarget``, the score of the class less that of its strongest rival in the same
      view, wherever the image itself leaves little doubt between the two: what speaks for an object of either class
      does not hide what decides between them.

    They are joined as priors and data are, S counting as k draws and R as m, and four maps stand for election: S;
    ``(sum of n draws + k S) / (n + k)``; ``(sum of n draws + k S + m R) / (n + k + m)``; and R. Each is tried on views
    that none was made from: its best pixels, from a thirty-second to half of the image, are shown alone, and hidden
    alone, and the areas between the two curves are compared. R is kept unless another map does better by more than a
    tenth of the clean score, for on small causes the curves can hardly tell right from nearly right; else the best of
    the four: the map does not end worse than it began. ``details["kept"]`` says which it is, ``details["tried"]`` how
    each did.

    Args:
        max_passes: views of the image for each box; several boxes share the soft masks, and ten take some 60 % of ten
            times as many. Boxes whose map is known well enough stop early, hard ones go on. With fewer than about 80
            the map is the start, with fewer than about 220 there are no draws.
        tolerance: in (0, 1): a box needs no more draws when another seed's would correlate with these by
            1 - ``tolerance`` or more.
        start_draws: k, how many draws the start counts as; 0 leaves it out.
        mask_draws: m, how many draws the soft masks count as; 0 leaves the masks out altogether.
        mask_share: in [0, 1), how much of ``max_passes`` goes to the soft masks.
        ignore_below: in [0, 1), as a share of the clean score: smaller changes of the score are not looked into.
        refine: how many large regions of each partition to cut in four, where the density so far is largest.
        decisive: whether to look, with some 20 passes more a box, for the smallest sets of cells, in the order of the
            map, that keep the box and whose removal loses it: ``details["sufficient"]`` and ``details["necessary"]``.
        fill: what is seen where the image is hidden, or several such, over which the draws are averaged: see
            ``RegionShapley``. Soft masks take the last of them.
        seed: of the draws; batch size changes nothing.
        target: from a detection's box and label to the question asked of it. With any but ``ClassScoreTarget`` the soft
            masks ask the same.
        batch_size: views at once; None: what fits the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        keep_partial: whether Ctrl-C, once the first draws are there, ends the work and gives the map so far, marked
            ``partial``.
        progress: a bar; None: where standard error is a terminal.

    Source: detxai's own; the parts are those of ``RegionShapley``, ``LayerCAM`` and ``DRISE``.
    """

    name: ClassVar[str] = "pixel_evidence"
    asks_about_boxes: ClassVar[bool] = True

    max_passes: int = 300
    tolerance: float = 0.15
    start_draws: float = 2.5
    mask_draws: float = 2.5
    mask_share: float = 0.5
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
        n_masks, n_views = self._budget()
        return min(self.max_passes * n_boxes, 8 + n_masks + (n_views + N_VIEWS_ON_TRIAL) * n_boxes)

    def _budget(self) -> tuple[int, int]:
        """How many soft masks for the image, and how many views of regions for each box."""
        n_left = self.max_passes - N_VIEWS_ON_TRIAL - 1
        n_masks = int(self.max_passes * self.mask_share) if self.mask_draws else 0
        if n_left - n_masks < FEWEST_PASSES and n_masks:
            n_masks = max(0, n_left - len(fills_of(self.fill)) - 2)
        n_masks = n_masks if n_masks >= FEWEST_MASKS else 0
        n_views = n_left - n_masks - len(fills_of(self.fill)) - 2
        return n_masks, n_views if n_views >= FEWEST_PASSES else 0

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
        views = self._views(detector, canvas, detections)
        n_passes = len(names) - 1 + views.n_passes  # the hill takes none
        maps, errors = self._candidates(views, shapes)
        details, known, partial = [told | {"start": names} for told in views.records()], views.known, views.partial
        kept = torch.full_like(known.n_draws, views.untried)
        if kept.any() and not partial:
            tried = self._on_trial(detector, canvas, targets, maps, known, settings)
            partial = tried is None
            if tried is not None:
                n_passes += VIEWS_A_MAP * tried.numel()
                kept = elected(tried, known.whole)
                for told, scores in zip(details, tried.T.tolist(), strict=True):
                    told |= {"tried": dict(zip(CANDIDATES, scores))}
        details = [told | {"kept": CANDIDATES[place]} for told, place in zip(details, kept.tolist(), strict=True)]
        each = torch.arange(len(kept), device=kept.device)
        values, error = maps[kept, each], errors[kept, each]
        if self.decisive:
            sets, n_more = decisive_cells(detector, canvas, targets, values, boxes, settings)
            n_passes += n_more
            details = [told | found for told, found in zip(details, sets, strict=True)]
        drawn, bars = (density_per_image_pixel(canvas, one).cpu().numpy() for one in (values, error))
        cost = Cost(time.perf_counter() - clock, n_passes)
        return [
            Explanation(
                drawn[i], canvas.clean.images[0], self.name, settings_of(self), cost, detections[i],
                model=detector.describe(), standard_error=bars[i] if bars[i].any() else None, partial=partial,
                details=details[i],
            )
            for i in range(len(detections))
        ]  # fmt: skip

    def _on_trial(
        self,
        detector: Adapter,
        canvas: Canvas,
        targets: Sequence[Target],
        maps: Tensor,
        known: Densities,
        settings: dict[str, Any],
    ) -> Tensor | None:
        """What each map did on trial (M, T); None where Ctrl-C ended it and what there is shall be kept."""
        try:
            return try_best_pixels(detector, canvas, targets, maps, known.hidden, known.whole, settings)
        except KeyboardInterrupt:
            if not self.keep_partial:
                raise
            return None

    def _views(self, detector: Adapter, canvas: Canvas, detections: Detections) -> _Views:
        """The soft masks of the image, and the draws of each box."""
        n_ends, n_boxes = len(canvas.filling) + 1, len(detections)
        n_masks, n_views = self._budget()
        shapley = RegionShapley(
            FEWEST_PASSES, self.ignore_below, refine=self.refine, fill=self.fill, seed=self.seed, target=self.target,
            batch_size=self.batch_size, precision=self.precision,
        )  # fmt: skip
        with detector.borrowed(), views_bar(self.progress, n_masks + n_views * n_boxes) as bar:
            sampler = shapley.sampler(detector, canvas, detections, bar.update)
            known = sampler.start()
            found, partial = None, False
            if n_masks:
                rivals = ContrastTarget.of(detections) if self.target is ClassScoreTarget else []
                found = soft_masks(
                    detector, canvas, sampler.targets, rivals, sampler.boxes, n_masks, self.seed, sampler.settings
                )
                bar.update(n_masks)
            if n_views:
                partial = stopped_early(
                    lambda: spend(sampler, known, n_views * n_boxes, 1 - self.tolerance), known, self.keep_partial
                )
        n_passes = n_ends + int(known.n_views.sum()) + (n_masks + 1 if n_masks else 0)
        return _Views(known, found, n_passes, partial)

    def _candidates(self, views: _Views, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """The maps (M, T, h, w) that may be kept, the first M of ``CANDIDATES``, and their standard errors."""
        known = views.known
        total = (known.whole - known.hidden.mean(1)).clamp(min=0)[:, None, None]
        start, none = shapes * total, torch.zeros_like(shapes)
        k, m = (torch.full_like(known.whole, count) for count in (self.start_draws, self.mask_draws))
        draws, draw_error = join(known, [(k, start)])
        if views.masks is None:
            return torch.stack([start, draws]), torch.stack([none, draw_error])
        positive = views.masks.values.clamp(min=0)
        sums = positive.sum((1, 2), keepdim=True)
        scale = total / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        masks = torch.where(sums > 0, positive * scale, start)
        mask_error = torch.where(sums > 0, views.masks.standard_error * scale, 0)
        both, both_error = join(known, [(k, start), (m, masks)])
        return torch.stack([start, draws, both, masks]), torch.stack([none, draw_error, both_error, mask_error])

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
        masks: the soft masks' slopes and their errors, (T, h, w); None where there were none.
        n_passes: how many views there were.
        partial: whether Ctrl-C cut them short.
    """

    known: Densities
    masks: Estimate | None
    n_passes: int
    partial: bool

    @property
    def untried(self) -> int:
        """Which of ``CANDIDATES`` stands where none can be tried: the one that most views went into."""
        if self.masks is not None:
            return 2
        return int((self.known.n_draws > 0).any())

    def records(self) -> list[dict[str, Any]]:
        """What became of each box, as JSON can hold it."""
        told = self.known.records()
        if self.masks is not None:
            for one, agreement in zip(told, self.masks.expected_correlation.tolist(), strict=True):
                one["expected_correlation_of_masks"] = agreement
        return told


def elected(tried: Tensor, whole: Tensor) -> Tensor:
    """(T,) int64, which of ``CANDIDATES`` is kept.

    Args:
        tried: (M, T) what each did on trial; two of them where there are no masks.
        whole: (T,) the clean scores.
    """
    if len(tried) < len(CANDIDATES):
        return torch.where(tried[0] > tried[1] + DOUBT * whole, 0, 1)
    best, place = tried.max(0)
    return torch.where(tried[-1] >= best - DOUBT * whole, len(CANDIDATES) - 1, place)
