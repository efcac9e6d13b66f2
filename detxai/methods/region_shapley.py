"""Region Shapley: what each part of the image adds to the box's score, averaged over what else can be seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas, Filling, filling_image
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.shapley import FIRST_DRAWS, Densities, ShapleySampler, density_per_image_pixel, spend_views
from detxai.engine.precision import check_precision
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_count, check_fraction, check_seed, check_target
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import ClassScoreTarget, Target, ask_about

OnRound: TypeAlias = Callable[[list[Explanation]], object]
"""Called with the explanations so far, one for each detection, each marked ``partial``."""
FEWEST_PASSES = 64  # for two draws, without which no error can be estimated
Fill: TypeAlias = Filling | Sequence[float] | Sequence[Filling]


@dataclass(frozen=True)
class RegionShapley:
    """The Shapley values of regions, spread over their pixels and averaged over random ways to cut the image.

    The image is cut into n regions. They appear one by one, in a random order, on a background that hides the others. A
    region's *gain* is the change of the box's score when it appears; its mean over all orders is its Shapley value. No
    other way to distribute the score is symmetric, adds up, and gives nothing to a region without effect. Divided by
    the region's area, the Shapley value is a density. The map is the mean of the densities of different partitions:

        ``values(x) = mean over partitions of (Shapley value of the region at x) / (its area)``

    signed, in units of the score a pixel; their sum is ``score(whole image) - score(nothing shown)``.

    - A partition is a grid of about 6 x 6 over the box and a quarter of its sides around it, and of 3 x 3 over the
      rest. Both grids have random offsets, new for every pair of orders.
    - Each order is also run in reverse, so that showing a region first and hiding it first count alike.
    - The score along an order is known at both ends. If the scores at the ends of an interval differ by less than
      ``tolerance``, the change is spread over the regions of the interval. Otherwise the middle is scored, and both
      halves are treated in the same way. That takes about log2(n) rounds, each with the views of all boxes in one
      batch.

    Each round spends half of the remaining views on the boxes with the largest errors. So hard boxes get the views that
    easy ones do not need.

    Args:
        max_passes: views of the image for each box, on average over the boxes; at least 64.
        tolerance: in [0, 1), a share of the clean score: where the score changes by less, no further views are spent. 0
            scores every step.
        explore: chance in [0, 1] that a small change is followed anyway, with a weight that makes up for the chance. 0
            is cheapest, but misses opposite changes that cancel. Any other value has no such bias.
        refine: how many large regions of each partition are cut in four, those where the map so far is highest: for
            small causes far from the box. 0: none.
        fill: what is seen where the image is hidden: ``"black"``, ``"mean"``, ``"blur"``, ``"noise"``, an RGB colour in
            [0, 1], or several of them, over which the values are averaged, because every background has effects of its
            own.
        seed: of partitions and orders; the batch size changes nothing.
        target: the question about a box: a function from its box and label to a target.
        batch_size: views at once; None: as many as fit on the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        keep_partial: if True, Ctrl-C stops the work and returns the map so far, marked ``partial``; if False, it raises
            ``KeyboardInterrupt``.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Shapley, 1953; Castro et al., 2009 (Computers & Operations Research 36), sampled orders; Mitchell et al.,
    2022 (JMLR 23), antithetic pairs; Covert et al., 2021 (JMLR 22), removal-based explanations. The partitions,
    their average and the bisection are detxai's own.
    """

    name: ClassVar[str] = "region_shapley"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "answers"
    passes: ClassVar[str] = "max_passes a box on average; hard boxes of an image take what easy ones leave"
    in_rounds: ClassVar[bool] = True

    max_passes: int = 300
    tolerance: float = 0.05
    explore: float = 0.0
    refine: int = 0
    fill: Fill = ("black", "mean")
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    precision: str = "full"
    keep_partial: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_count("max_passes", self.max_passes, FEWEST_PASSES)
        check_count("refine", self.refine, 0)
        check_fraction("tolerance", self.tolerance, "[0, 1)")
        check_fraction("explore", self.explore, "[0, 1]")
        check_sampling(self)

    def most_passes(self, n_boxes: int) -> int:
        """How many passes ``n_boxes`` boxes of one image take at most, for an estimate before they start."""
        return self.max_passes * n_boxes

    @in_full_precision
    def __call__(
        self, detector: Detector, image: Image, detections: Detections, *, on_round: OnRound | None = None
    ) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel.

        Args:
            detector: what is explained.
            image: the image.
            detections: the boxes.
            on_round: called after every round of draws with the explanations so far, which are marked ``partial``.
                It changes nothing in the result.

        Raises:
            ValueError: a setting or a label is wrong.
        """
        started = time.perf_counter()
        if len(detections) == 0:
            return []
        canvas = Canvas.with_fills(detector, image, fills_of(self.fill), self.seed)
        n_ends = len(canvas.filling) + 1
        max_views = self.max_passes * len(detections) - n_ends
        with detector.borrowed(), progress_bar(self.progress, n_ends + max_views, "showing regions", "view") as bar:
            sampler = self.sampler(detector, canvas, detections, bar.update)
            known = sampler.start()

            def made(partial: bool) -> list[Explanation]:
                error = known.standard_error
                if partial:  # infinite where there are fewer than two draws
                    error = torch.where(error.isfinite(), error, 0)
                return explanations(
                    self, detector, canvas.clean, detections, density_per_image_pixel(canvas, known.mean),
                    started=started, passes=canvas.n_passes(int(known.n_views.sum()) + n_ends),
                    details=[of_box | canvas.details() for of_box in known.records()],
                    standard_errors=density_per_image_pixel(canvas, error), partial=partial,
                )  # fmt: skip

            def report() -> None:
                if on_round is not None:
                    on_round(made(partial=True))

            partial = is_interrupted(
                lambda: spend_views(sampler, known, max_views, on_round=report), known, self.keep_partial
            )
        return made(partial)

    def sampler(
        self, detector: Detector, canvas: Canvas, detections: Detections, on_views: Callable[[int], object]
    ) -> ShapleySampler:
        """The sampler of the detections' Shapley densities.

        Args:
            detector: what is asked.
            canvas: the image with its fillings.
            detections: T boxes in pixels of the image.
            on_views: called with the number of views after every batch.
        """
        targets = ask_about(detections, self.target)
        scorer = ViewScorer(detector, canvas, targets, self.batch_size, self.precision, on_views=on_views)
        boxes = boxes_on(canvas, detections)
        return ShapleySampler(scorer, boxes, self.tolerance, self.explore, self.seed, self.refine)


def is_interrupted(
    draw: Callable[[], object], known: Densities, keep_partial: bool, least_draws: int = FIRST_DRAWS
) -> bool:
    """Run ``draw``; True where Ctrl-C ended it and what is known by then shall be kept.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it, and ``keep_partial`` is False or some box has fewer than ``least_draws``.
    """
    try:
        draw()
    except KeyboardInterrupt:
        if not keep_partial or int(known.n_draws.min()) < least_draws:
            raise
        return True
    return False


def boxes_on(canvas: Canvas, detections: Detections) -> Tensor:
    """(T, 4) the detections' boxes in pixels of the canvas, on its device."""
    (top, left), boxes = canvas.geometry.offset, detections.boxes.to(canvas.clean.tensor.device)
    return canvas.geometry.boxes_to_input(boxes) - boxes.new_tensor([left, top, left, top])


def fills_of(fill: Fill) -> list[Filling | Sequence[float]]:
    """One filling or several, as a list.

    >>> fills_of("mean"), fills_of([0, 0, 1]), fills_of(["black", "blur"])
    (['mean'], [[0, 0, 1]], ['black', 'blur'])
    """
    if isinstance(fill, str) or not any(isinstance(one, (str, list, tuple)) for one in fill):
        return [fill]  # type: ignore[list-item]
    return list(fill)  # type: ignore[arg-type]


def check_sampling(method: Any) -> None:
    """Check the settings that methods of random views share: fill, seed, target, batch size and precision."""
    check_seed(method.seed)
    given: Fill = method.fill
    if not isinstance(given, (str, list, tuple)) or len(given) == 0:
        raise ValueError(f"fill must be a filling or a list of them, got {given!r}")
    for fill in fills_of(method.fill):
        filling_image(np.zeros((1, 1, 3), dtype=np.uint8), fill)
    check_target(method.target)
    check_batch_size(method.batch_size)
    check_precision(method.precision)
