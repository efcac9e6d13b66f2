"""Pixel evidence, the default method: Shapley values of regions, combined with soft masks and gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.best_pixels import VIEWS_PER_MAP, compare_best_pixels
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.decisive import decisive_cells
from detxai.engine.masking.evidence_views import EvidenceViews
from detxai.engine.masking.fine import sharpened
from detxai.engine.masking.shapley import FIRST_DRAWS, density_per_image_pixel, spend_views
from detxai.engine.masking.soft.estimating import Estimate
from detxai.engine.masking.soft.image_masks import masks_for, soft_masks
from detxai.engine.masking.soft.traced import trace_masks
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_count, check_fraction, check_number
from detxai.methods.evidence.candidate_maps import CANDIDATES, MASKS, best_maps, candidate_maps
from detxai.methods.evidence.start import Start
from detxai.methods.region_shapley import (
    FEWEST_PASSES,
    Fill,
    OnRound,
    RegionShapley,
    check_sampling,
    fills_of,
    is_interrupted,
)
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import ClassScoreTarget, ContrastTarget, Target

FEWEST_MASKS = 50
FINE = 1 / 6  # of the passes: for fine masks where there are no gradients, else for more soft masks
N_TRACED = 12  # of the soft masks
BACKWARD_PASSES = 2 * N_TRACED  # a backward pass takes as long as one or two forward passes
N_COMPARISON_VIEWS = len(CANDIDATES) * VIEWS_PER_MAP


@dataclass(frozen=True)
class PixelEvidence:
    """How much each pixel adds to the box's score, averaged over what else of the image can be seen.

    A map distributes ``score(whole image) - score(nothing shown)`` over the pixels, as a density. It is estimated in
    four ways, of which the last needs a network:

    - *Draws* D: the density of Shapley values for one random partition of the image, under every fill
      (``RegionShapley`` derives it). Draws are sharp and right on average; a few of them are noisy.
    - The *start* S costs one pass. Half of it is a Gaussian over the box, because objects mostly lie in the middle of
      their boxes. The other half is LayerCAM, if the detector is a network.
    - *Soft masks* R, one set for all boxes of the image: the positive part of D-RISE's slopes by regression (see
      ``DRISE``). They are coarse (half the smallest box, wider where a cell would have fewer than two masks) and
      stable, and find a small cause, in the box or far away, that a few draws miss. If the image leaves little doubt
      between the class and its strongest rival, they ask ``ContrastTarget``: the score of the class less that of the
      rival in the same view. Evidence that both classes share then cancels, and what decides between them is left.
    - *Gradients* G: the first twelve soft masks, traced back to their pixels. G is the mean of ``|df/dM(x)|``, how much
      the score f under the mask M changes with pixel x of the mask. It is as fine as a pixel, and says nothing of what
      a larger part adds as a whole.

    S counts as k draws and R as m draws, and J is ``(sum of n draws + k S + m R) / (n + k + m)``. This gives four maps:
    ``(S + G) / 2``; ``J^(1 - w) G^w``; ``R (G / mean of G in a cell)^(2 w)``, a cell being that of the masks; and
    ``D^(1 - w) G^w``, D the mean of the draws. In the third, R alone says which cell, and G what lies where within it;
    0.03 of it is S, for the order of pixels without evidence. Negative values stay as they are. Without G the maps are
    S, J, R with 0.03 of S, and D.

    Each map is tested on new views: its best pixels, from 1/128 to half of the image, are shown alone, and hidden
    alone. That gives two curves of the score that the masks ask for, over the share of the image, and the map with the
    largest area between them is kept. If the detector is sure of the box (a score of 0.9 or more), that of the masks
    is kept unless another has more by 0.15 of the score: where the cause is known, it is right most often, and a small
    cause changes the areas by less than that.

    Without G, where the map of the masks was kept, the last sixth of the passes goes to *fine masks* of that box alone:
    they hide only where R is high, show everything else, and can raise the value of a pixel up to twofold. With G that
    adds nothing, and those passes are more soft masks. ``details["kept"]`` says which map was kept (``start``,
    ``joined``, ``masks`` or
    ``draws``), ``details["tried"]`` the result of each, ``details["contrast"]`` whether masks and test asked for the
    contrast, and ``details["gradients"]`` whether there is G.

    Args:
        max_passes: views of the image for each box, at most; a backward pass counts as two. Several boxes share the
            soft masks: ten boxes take two thirds of ten times as many. A box stops early when its map is known well
            enough. With fewer than about 115 the map is S; with fewer than about 120 there is no G, with fewer than
            about 285 there are no draws.
        tolerance: in (0, 1): draws stop when those of another seed would correlate with them by 1 - ``tolerance`` or
            more.
        start_draws: k, how many draws the start counts as; 0 leaves it out.
        mask_draws: m, how many draws the soft masks count as; 0 leaves the masks out altogether.
        gradient_weight: w, in [0, 1), how much the gradients count in a map; 0 leaves them out altogether.
        mask_share: in [0, 1), the share of ``max_passes`` that the soft masks take; with their gradients, a sixth more.
        ignore_below: in [0, 1), a share of the clean score: where the score changes by less, no further views are
            spent.
        refine: how many large regions of each partition are cut in four: those where the map so far is highest.
        decisive: whether to search, with some 20 more passes a box, for the smallest part of the image that keeps the
            box (``details["sufficient"]``) and the smallest part without which it is lost (``details["necessary"]``),
            in cells taken in the order of the map.
        fill: what is seen where the image is hidden, or several such: see ``RegionShapley``. Draws are averaged over
            them; soft masks take the last.
        seed: of everything random; the batch size changes nothing.
        target: the question about a box: a function from its box and label to a target. With any but
            ``ClassScoreTarget`` the soft masks ask the same question.
        batch_size: views at once; None: as many as fit on the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        keep_partial: if True, Ctrl-C stops the work and returns the map so far, marked ``partial``, once there are soft
            masks or the first draws; if False, it raises ``KeyboardInterrupt``.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: detxai's own; the parts are those of ``RegionShapley``, ``LayerCAM`` and ``DRISE``.
    """

    name: ClassVar[str] = "pixel_evidence"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "answers"
    passes: ClassVar[str] = "at most max_passes a box; boxes of one image share the soft masks"
    in_rounds: ClassVar[bool] = True
    of_single_pixels: ClassVar[bool] = True

    max_passes: int = 300
    tolerance: float = 0.15
    start_draws: float = 1.0
    mask_draws: float = 2.5
    gradient_weight: float = 0.25
    mask_share: float = 0.4
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
        check_fraction("tolerance", self.tolerance, "(0, 1)")
        for name in ("start_draws", "mask_draws"):
            check_number(name, getattr(self, name))
        for name in ("gradient_weight", "mask_share", "ignore_below"):
            check_fraction(name, getattr(self, name), "[0, 1)")
        check_sampling(self)

    def most_passes(self, n_boxes: int) -> int:
        """How many passes ``n_boxes`` boxes of one image take at most, for an estimate before they start."""
        n_masks, n_draws, n_fine = self._budget()
        each = n_draws + max(n_fine, BACKWARD_PASSES) + N_COMPARISON_VIEWS  # a network's, or a black box's
        return min(self.max_passes * n_boxes, 8 + n_masks + n_fine + each * n_boxes)

    def _budget(self) -> tuple[int, int, int]:
        """Passes of one box for soft masks and tracing them back, for views of regions, and for fine masks."""
        n_fine = int(self.max_passes * FINE) if self.mask_draws else 0
        n_left = max(0, self.max_passes - n_fine - N_COMPARISON_VIEWS - len(fills_of(self.fill)) - 2)
        n_masks = int(self.max_passes * self.mask_share) if self.mask_draws else 0
        n_draws = n_left - n_masks
        if n_masks and n_draws < FEWEST_PASSES:
            n_masks, n_draws = n_left + VIEWS_PER_MAP, 0  # without draws there is no map of theirs to be compared
        n_masks = n_masks if n_masks >= FEWEST_MASKS else 0
        n_draws = n_draws if n_draws >= FEWEST_PASSES else 0
        return n_masks, n_draws, n_fine if n_masks else 0

    @in_full_precision
    def __call__(
        self, detector: Detector, image: Image, detections: Detections, *, on_round: OnRound | None = None
    ) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel; None where S was kept.

        Args:
            detector: what is explained.
            image: the image.
            detections: the boxes.
            on_round: called with the explanations so far, which are marked ``partial``: the start, as soon as its one
                pass is done; several times with the soft masks; after each round of draws. The start then shares out
                the detection's score, as no view has told yet what nothing shown scores. It changes nothing in the
                result.

        Raises:
            ValueError: a setting or a label is wrong.
        """
        if len(detections) == 0:
            return []
        with detector.borrowed():  # once: each time it keeps and restores what the model's modules hold
            return self._explained(detector, image, detections, on_round)

    def _explained(
        self, detector: Detector, image: Image, detections: Detections, on_round: OnRound | None
    ) -> list[Explanation]:
        started = time.perf_counter()
        canvas = Canvas.with_fills(detector, image, fills_of(self.fill), self.seed)
        start = Start.of(detector, image, canvas, detections, self.target)
        if on_round is not None:
            on_round(self._start_alone(detector, canvas, detections, start, started))

        def report(views: EvidenceViews, kept: Tensor | None = None) -> None:
            if on_round is not None:
                kept = self._untested(views) if kept is None else kept
                so_far = replace(views, partial=True)
                on_round(self._explanations(detector, canvas, detections, start, so_far, kept, started))

        most = self.most_passes(len(detections))
        with progress_bar(self.progress, most, "showing regions", "view") as bar:
            views = self._views(detector, canvas, detections, bar.update, report, reports_parts=on_round is not None)
            kept = self._best_maps(views, start.shapes)
            self._look_closer(views, kept, report)
        return self._explanations(detector, canvas, detections, start, views, kept, started, decisive=self.decisive)

    def _start_alone(
        self, detector: Detector, canvas: Canvas, detections: Detections, start: Start, started: float
    ) -> list[Explanation]:
        """The start before any view."""
        shared_out = start.shapes * detections.scores.to(start.shapes)[:, None, None]
        return explanations(
            self, detector, canvas.clean, detections, density_per_image_pixel(canvas, shared_out), started=started,
            passes=start.n_passes, details={"start": start.names, "kept": CANDIDATES[0]}, partial=True,
        )  # fmt: skip

    def _explanations(
        self,
        detector: Detector,
        canvas: Canvas,
        detections: Detections,
        start: Start,
        views: EvidenceViews,
        kept: Tensor,
        started: float,
        *,
        decisive: bool = False,
    ) -> list[Explanation]:
        """The maps that are kept (T,) of what the views gave."""
        maps, errors = self._candidates(views, start.shapes)
        each = torch.arange(len(kept), device=kept.device)
        values, error = maps[kept, each], errors[kept, each]
        details = [
            record | {"start": start.names, "kept": CANDIDATES[place]} | canvas.details()
            for record, place in zip(views.records(CANDIDATES), kept.tolist(), strict=True)
        ]
        n_views = views.n_passes
        if decisive:
            sets, n_more = decisive_cells(replace(views.sampler.scorer, on_views=None), values, views.sampler.boxes)
            n_views += n_more
            details = [record | found for record, found in zip(details, sets, strict=True)]
        bars = density_per_image_pixel(canvas, error)
        return explanations(
            self, detector, canvas.clean, detections, density_per_image_pixel(canvas, values),
            started=started, passes=start.n_passes + canvas.n_passes(n_views), details=details,
            standard_errors=[bar if known else None for bar, known in zip(bars, bars.flatten(1).any(1).tolist())],
            partial=views.partial,
        )  # fmt: skip

    def _views(
        self,
        detector: Detector,
        canvas: Canvas,
        detections: Detections,
        on_views: Callable[[int], object],
        report: Callable[[EvidenceViews], None],
        *,
        reports_parts: bool,
    ) -> EvidenceViews:
        """The soft masks of the image and the first draws of each box."""
        shapley = RegionShapley(
            FEWEST_PASSES, self.ignore_below, refine=self.refine, fill=self.fill, seed=self.seed, target=self.target,
            batch_size=self.batch_size, precision=self.precision,
        )  # fmt: skip
        sampler = shapley.sampler(detector, canvas, detections, on_views)
        rivals = ContrastTarget.of(detections) if self.target is ClassScoreTarget else []
        ends = replace(sampler.scorer, targets=[*sampler.scorer.targets, *rivals]).ends()
        views = self._with_masks(EvidenceViews.from_ends(sampler, rivals, *ends), report if reports_parts else None)
        if views.masks is not None:
            report(views)
        _, n_draws, _ = self._budget()
        if n_draws:
            views.partial = is_interrupted(
                lambda: spend_views(
                    sampler,
                    views.known,
                    n_draws * len(detections),
                    1 - self.tolerance,
                    on_round=lambda: report(views),
                ),
                views.known,
                self.keep_partial,
                least_draws=0 if views.masks is not None else FIRST_DRAWS,
            )
        return views

    def _with_masks(self, views: EvidenceViews, report: Callable[[EvidenceViews], None] | None) -> EvidenceViews:
        """The same with the soft masks of the image, the first of them traced back where that is possible."""
        n_masks, _, n_fine = self._budget()
        if not n_masks:
            return views
        masks, scores = masks_for(views.sampler.canvas, views.sampler.boxes, self.seed, n_masks), None
        affordable = self.gradient_weight and n_masks + n_fine >= FEWEST_MASKS + BACKWARD_PASSES
        if affordable and (traced := trace_masks(views.scorer, masks, N_TRACED)):
            n_masks, scores = n_masks + n_fine - BACKWARD_PASSES, traced.scores
            n_shared = views.n_shared + BACKWARD_PASSES * len(views.sampler.boxes)
            views = replace(views, gradients=traced.slopes, n_shared=n_shared)

        def on_part(found: Estimate, n_so_far: int) -> None:
            if report is not None:
                report(views.with_masks(found, masks.cell, n_so_far))

        found = soft_masks(views.scorer, masks, n_masks, scores, None if report is None else on_part)
        return views.with_masks(found, masks.cell, n_masks)

    def _candidates(self, views: EvidenceViews, shapes: Tensor) -> tuple[Tensor, Tensor]:
        return candidate_maps(views, shapes, self.start_draws, self.mask_draws, self.gradient_weight)

    def _best_maps(self, views: EvidenceViews, shapes: Tensor) -> Tensor:
        """(T,) int64, which of ``CANDIDATES`` each box keeps; the joined map where they could not be compared."""
        kept = self._untested(views)
        if views.partial or not bool(kept.any()):
            return kept
        maps, _ = self._candidates(views, shapes)

        def compare() -> None:
            views.tried = compare_best_pixels(views.scorer, maps, views.hidden, views.whole)
            views.n_shared += VIEWS_PER_MAP * views.tried.numel()

        views.partial = is_interrupted(compare, views.known, self.keep_partial, least_draws=0)
        return kept if views.tried is None else best_maps(views.tried, views.whole)

    def _untested(self, views: EvidenceViews) -> Tensor:
        """(T,) int64, which of ``CANDIDATES`` a box keeps without a comparison: joined, or the start without views."""
        has_views = views.masks is not None or bool(views.known.n_draws.any())
        return torch.full_like(views.known.n_draws, int(has_views))

    def _look_closer(self, views: EvidenceViews, kept: Tensor, report: Callable[[EvidenceViews, Tensor], None]) -> None:
        """Fine masks for the boxes whose soft masks were kept, where there are no gradients."""
        _, _, n_fine = self._budget()
        masks, boxes = views.masks, torch.nonzero(kept == MASKS).flatten()
        if masks is None or views.gradients is not None or views.partial or not len(boxes):
            return
        report(views, kept)

        def look() -> None:
            views.masks = sharpened(views.scorer, masks, boxes, n_fine, self.seed + 1)
            views.n_shared += n_fine * len(boxes)

        views.partial = is_interrupted(look, views.known, self.keep_partial, least_draws=0)
