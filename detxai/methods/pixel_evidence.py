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
from detxai.engine.masking.best_pixels import VIEWS_A_MAP, elected, try_best_pixels
from detxai.engine.masking.decisive import decisive_cells
from detxai.engine.masking.scoring import scores_of_ends
from detxai.engine.masking.shapley import FIRST_DRAWS, Densities, density_per_image_pixel, join, spend
from detxai.engine.masking.soft import coarse_and_fine
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

FEWEST_MASKS = 50
COARSE = 0.6  # of the soft masks, for all boxes of the image; the others are a box's own
N_VIEWS_ON_TRIAL = 4 * VIEWS_A_MAP


@dataclass(frozen=True)
class PixelEvidence:
    """How much each pixel speaks for the box: what its region adds to the score, whatever else can be seen.

    Three accounts of the same sum, ``score(whole image) - score(nothing shown)``, as densities over the pixels:

    - *Draws* D: the density of Shapley values for one random way to cut the image, under every filling (the page of
      ``RegionShapley`` derives it). Sharp, right on average, noisy for few.
    - The *start* S costs one pass: half of it is a hill over the box, since objects are mostly in the middle of their
      boxes, and half LayerCAM, where the detector is a network.
    - *Soft masks* R. Coarse ones first, one set for all boxes of the image: D-RISE's slopes by regression (the page of
      ``DRISE``), what is positive of them. Blunt and steady: they find a small cause, in the box or far away, that few
      draws miss. Then fine ones for each box, over what is high in its coarse map alone, while the rest is shown: a
      pixel gains up to twice its value by them. Both ask ``ContrastTarget``, the score of the class less that of its
      strongest rival in the same view, wherever the image itself leaves little doubt between the two: what speaks for
      an object of either class does not hide what decides between them.

    They are joined as priors and data are, S counting as k draws and R as m, and four maps stand for election: S;
    ``(sum of n draws + k S + m R) / (n + k + m)``, where there are draws; ``(S + 2 R) / 3``; and R. Each is tried on
    views that none was made from: its best pixels, from a thirty-second to half of the image, are shown alone, and
    hidden alone, and the areas between the two curves of the masks' question are compared. Of those that do as well as
    the best, or worse by no more than .03 of the clean score, the last is kept, for on small causes the curves can
    hardly tell right from nearly right: the map does not end worse than it began. ``details["kept"]`` says which it
    is, ``details["tried"]`` how each did, ``details["contrast"]`` whether masks and trial asked for the contrast.

    Args:
        max_passes: views of the image for each box; several boxes share the coarse masks, and ten take two thirds of
            ten times as many. Boxes whose map is known well enough stop early, hard ones go on. With fewer than about
            95 the map is the start, with fewer than about 270 there are no draws.
        tolerance: in (0, 1): a box needs no more draws when another seed's would correlate with these by
            1 - ``tolerance`` or more.
        start_draws: k, how many draws the start counts as; 0 leaves it out.
        mask_draws: m, how many draws the soft masks count as; 0 leaves the masks out altogether.
        mask_share: in [0, 1), how much of ``max_passes`` goes to the soft masks, six tenths of it to coarse ones.
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
        keep_partial: whether Ctrl-C, once the soft masks or the first draws are there, ends the work and gives the map
            so far, marked ``partial``.
        progress: a bar; None: where standard error is a terminal.

    Source: detxai's own; the parts are those of ``RegionShapley``, ``LayerCAM`` and ``DRISE``.
    """

    name: ClassVar[str] = "pixel_evidence"
    asks_about_boxes: ClassVar[bool] = True

    max_passes: int = 300
    tolerance: float = 0.15
    start_draws: float = 1.0
    mask_draws: float = 2.5
    mask_share: float = 0.6
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
        n_coarse, n_fine, n_views = self._budget()
        return min(self.max_passes * n_boxes, 8 + n_coarse + (n_fine + n_views + N_VIEWS_ON_TRIAL) * n_boxes)

    def _budget(self) -> tuple[int, int, int]:
        """How many coarse masks for the image, and how many fine masks and views of regions for each box."""
        n_left = max(0, self.max_passes - N_VIEWS_ON_TRIAL - len(fills_of(self.fill)) - 2)
        n_masks = int(self.max_passes * self.mask_share) if self.mask_draws else 0
        if n_masks and n_left - n_masks < FEWEST_PASSES:
            n_masks = n_left
        n_masks = n_masks if n_masks >= FEWEST_MASKS else 0
        n_coarse, n_views = round(n_masks * COARSE), n_left - n_masks
        return n_coarse, n_masks - n_coarse, n_views if n_views >= FEWEST_PASSES else 0

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
        settings = {"batch_size": self.batch_size, "precision": self.precision}
        shapes, names = self._start(detector, image, canvas, detections)
        views = self._views(detector, canvas, detections)
        n_passes = len(names) - 1 + views.n_passes  # the hill takes none
        stand, maps, errors = self._candidates(views, shapes)
        details, known, partial = [told | {"start": names} for told in views.records()], views.known, views.partial
        kept = torch.full_like(known.n_draws, views.untried)
        if kept.any() and not partial:
            tried = self._on_trial(detector, canvas, views, maps, settings)
            partial = tried is None
            if tried is not None:
                n_passes += VIEWS_A_MAP * tried.numel()
                kept = elected(tried, views.whole)
                for told, scores in zip(details, tried.T.tolist(), strict=True):
                    told |= {"tried": dict(zip(stand, scores, strict=True))}
        details = [told | {"kept": stand[place]} for told, place in zip(details, kept.tolist(), strict=True)]
        each = torch.arange(len(kept), device=kept.device)
        values, error = maps[kept, each], errors[kept, each]
        if self.decisive:
            targets, boxes = ask_about(detections, self.target), boxes_on(canvas, detections)
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
        self, detector: Adapter, canvas: Canvas, views: _Views, maps: Tensor, settings: dict[str, Any]
    ) -> Tensor | None:
        """What each map did on trial (M, T); None where Ctrl-C ended it and what there is shall be kept."""
        try:
            return try_best_pixels(detector, canvas, views.asked, maps, views.hidden, views.whole, settings)
        except KeyboardInterrupt:
            if not self.keep_partial:
                raise
            return None

    def _views(self, detector: Adapter, canvas: Canvas, detections: Detections) -> _Views:
        """The soft masks of the image and of each box, and the draws of each box."""
        n_boxes = len(detections)
        n_coarse, n_fine, n_views = self._budget()
        shapley = RegionShapley(
            FEWEST_PASSES, self.ignore_below, refine=self.refine, fill=self.fill, seed=self.seed, target=self.target,
            batch_size=self.batch_size, precision=self.precision,
        )  # fmt: skip
        with detector.borrowed(), views_bar(self.progress, n_coarse + (n_fine + n_views) * n_boxes) as bar:
            sampler = shapley.sampler(detector, canvas, detections, bar.update)
            rivals = ContrastTarget.of(detections) if self.target is ClassScoreTarget else []
            ends = scores_of_ends(detector, canvas, [*sampler.targets, *rivals], sampler.settings)
            known = Densities.empty(canvas.size, *(scores[:n_boxes] for scores in ends))
            views = _Views.asking(sampler.targets, rivals, *ends, known)
            if n_coarse:
                counts = (n_coarse, n_fine)
                views.masks, views.agreement = coarse_and_fine(
                    detector, canvas, views.asked, sampler.boxes, counts, self.seed, sampler.settings
                )
                views.n_masks = n_coarse + n_fine * n_boxes
                bar.update(views.n_masks)
            if n_views:
                views.partial = stopped_early(
                    lambda: spend(sampler, known, n_views * n_boxes, 1 - self.tolerance),
                    known,
                    self.keep_partial,
                    least_draws=0 if n_coarse else FIRST_DRAWS,
                )
        return views

    def _candidates(self, views: _Views, shapes: Tensor) -> tuple[list[str], Tensor, Tensor]:
        """The maps (M, T, h, w) that stand for election, their names and their standard errors."""
        known = views.known
        total = (known.whole - known.hidden.mean(1)).clamp(min=0)[:, None, None]
        start, none = shapes * total, torch.zeros_like(shapes)
        k, m = (torch.full_like(known.whole, count) for count in (self.start_draws, self.mask_draws))
        if views.masks is None:
            joined, error = join(known, [(k, start)])
            return ["start", "joined"], torch.stack([start, joined]), torch.stack([none, error])
        sums = views.masks.values.sum((1, 2), keepdim=True)
        scale = total / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        masks = torch.where(sums > 0, views.masks.values * scale, start)
        mask_error = torch.where(sums > 0, views.masks.standard_error * scale, 0)
        stand = {"start": (start, none)}
        if known.n_draws.any():  # without draws it would be the next one again
            stand["joined"] = join(known, [(k, start), (m, masks)])
        stand |= {"start and masks": ((start + 2 * masks) / 3, mask_error * 2 / 3), "masks": (masks, mask_error)}
        maps, errors = (torch.stack(one) for one in zip(*stand.values(), strict=True))
        return list(stand), maps, errors

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


@dataclass(eq=False)
class _Views:
    """What the views of T boxes came to.

    Attributes:
        asked: T questions of the masks and of the trial: for the class, or for its contrast with another.
        contrast: (T,) bool, which of the two.
        hidden, whole: (T, F) and (T,), their answers with nothing shown and for the whole image.
        known: the draws.
        masks: the soft masks' slopes where positive, and their errors, (T, h, w); None where there were none.
        agreement: (T,) how well other coarse masks would correlate with these.
        n_masks: views of masks, coarse and fine.
        partial: whether Ctrl-C cut the draws short.
    """

    asked: list[Target]
    contrast: Tensor
    hidden: Tensor
    whole: Tensor
    known: Densities
    masks: Estimate | None = None
    agreement: Tensor | None = None
    n_masks: int = 0
    partial: bool = False

    @classmethod
    def asking(
        cls, targets: Sequence[Target], rivals: Sequence[Target], hidden: Tensor, whole: Tensor, known: Densities
    ) -> _Views:
        """No views but the ends yet: a rival is asked where the whole image scores it by more than half as much."""
        n_boxes = len(targets)
        place = torch.arange(n_boxes, device=whole.device)
        contrast = whole[n_boxes:] > whole[:n_boxes] / 2 if rivals else torch.zeros_like(place, dtype=torch.bool)
        place = torch.where(contrast, place + n_boxes, place)
        every = [*targets, *rivals]
        return cls([every[i] for i in place.tolist()], contrast, hidden[place], whole[place], known)

    @property
    def n_passes(self) -> int:
        return self.hidden.shape[1] + 1 + self.n_masks + int(self.known.n_views.sum())

    @property
    def untried(self) -> int:
        """Which map is kept where none can be tried: the second, of all that was seen; without views the start."""
        return int(self.masks is not None or bool((self.known.n_draws > 0).any()))

    def records(self) -> list[dict[str, Any]]:
        """What became of each box, as JSON can hold it."""
        told = [one | {"contrast": yes} for one, yes in zip(self.known.records(), self.contrast.tolist(), strict=True)]
        if self.agreement is not None:
            for one, agreement in zip(told, self.agreement.tolist(), strict=True):
                one["expected_correlation_of_masks"] = agreement
        return told
