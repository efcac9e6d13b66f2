"""D-RISE: what does a random view of the image have to show for the box to be found?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.ablation.loop import autocast
from detxai.engine.batching import check_batch_size
from detxai.engine.masking.perturbing import Canvas, Filling
from detxai.engine.masking.scoring import scores_under
from detxai.engine.masking.soft.estimating import (
    NORMALISATIONS,
    VARIANCE_REDUCTIONS,
    Estimate,
    Normalisation,
    VarianceReduction,
    estimate,
)
from detxai.engine.masking.soft.lattice import Lattice
from detxai.engine.masking.soft.masks import RiseMasks
from detxai.engine.masking.soft.scoring import grid_for
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image
from detxai.methods.checks import check_seed
from detxai.progress import hides_bar
from detxai.targets import SimilarityTarget, Target, ask_about, score_targets

log = logging.getLogger(__name__)

FEWEST = 256  # masks before "auto" looks for the first time; the error of fewer is itself too uncertain
GROWTH = 1.25  # masks between two looks, as a factor
WORTH_KEEPING = 16  # masks below which an interrupted run has nothing to show


@dataclass(frozen=True, eq=False)
class Sample:
    """What T detections score under masks of one image.

    Attributes:
        canvas: the image, and what stands where it is hidden.
        lattice: where maps are estimated; its masks are the masks.
        clean: (T,) the scores of the whole image.
        scores: (T, n) the scores under masks 0 to n - 1.
        partial: True where n is less than was asked for.
    """

    canvas: Canvas
    lattice: Lattice
    clean: Tensor
    scores: Tensor
    partial: bool = False


@dataclass(frozen=True)
class DRISE:
    """Each pixel weighed by the detections that random views of the image still give where they show it.

    The image is seen through random smooth masks M; ``w`` is how similar anything is that the detector then sees to
    the detection in question. ``values = Cov(w, M(x)) / Var(M(x))``: how much more score comes with a pixel that is
    shown, in units of the score. One set of masked images serves all detections. It needs nothing but inputs and
    outputs, so it explains any detector (``detxai.wrap(function)``).

    Args:
        n_masks: how many masks, at least 16; or ``"auto"``: until ``tolerance`` holds for every detection.
        seed: of the masks; mask number i depends on (seed, i) alone, so batch size and stopping change nothing.
        tolerance: for ``"auto"``, in (0, 1): stop when the map of another seed would correlate with this one by
            1 - ``tolerance`` or more, for every detection. It is estimated from the standard errors.
        most_masks: where ``"auto"`` stops anyway.
        grid: cells of a mask, (rows, columns) or one number for both; None: square cells of half the smallest box
            (the square root of its area), at least 5 and at most 24 across the image's shorter side.
        p: probability that a cell shows the image, in (0, 1). Raise it where the detector finds little.
        fill: what is seen where the image is hidden: ``"black"`` (the paper), ``"mean"``, ``"blur"``, ``"noise"`` or
            an RGB colour in [0, 1].
        target: from a detection's box and label to the question asked of it; the default takes the class vector of
            the candidate behind each detection.
        normalisation: see ``detxai.engine.masking.soft.estimating.estimate``; ``"sum"`` is the paper's.
        variance_reduction: ``"control_variate"`` (unbiased), ``"regression"`` (less error on real images with few
            masks, but small effects are shrunk) or ``"none"``: see ``estimate``. For ``"slope"`` only.
        batch_size: masked images at once; None: what fits the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        channels_last: hand the detector its images in that memory format.
        keep_partial: whether Ctrl-C ends the work and gives the map of the masks so far, marked ``partial``; by
            default it is raised, as anywhere else.
        progress: a bar; None: where standard error is a terminal.

    Source: Petsiuk et al., 2021, D-RISE (CVPR), section 3; masks of RISE (BMVC 2018). Differs in the normalisation,
    the class vectors from before suppression, the standard errors and the control variate.
    """

    name: ClassVar[str] = "d_rise"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "answers"
    passes: ClassVar[str] = "n_masks for the image, shared by all boxes"

    n_masks: int | Literal["auto"] = 1000
    seed: int = 0
    tolerance: float = 0.05
    most_masks: int = 10_000
    grid: int | tuple[int, int] | None = None
    p: float = 0.5
    fill: Filling | Sequence[float] = "black"
    target: Callable[[Any, int], Target] = SimilarityTarget
    normalisation: Normalisation = "slope"
    variance_reduction: VarianceReduction = "control_variate"
    batch_size: int | None = None
    precision: str = "full"
    channels_last: bool = False
    keep_partial: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.n_masks != "auto" and (not isinstance(self.n_masks, int) or self.n_masks < WORTH_KEEPING):
            raise ValueError(f"n_masks must be a whole number from {WORTH_KEEPING}, or 'auto', got {self.n_masks!r}")
        check_seed(self.seed)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {self.tolerance}")
        if not isinstance(self.most_masks, int) or self.most_masks < FEWEST:
            raise ValueError(f"most_masks must be a whole number from {FEWEST}, got {self.most_masks!r}")
        grid = (self.grid, self.grid) if isinstance(self.grid, int) else self.grid
        if grid is not None and (len(grid) != 2 or not all(isinstance(n, int) and n > 0 for n in grid)):
            raise ValueError(f"grid must be (rows, columns), both from 1, or one number, got {self.grid!r}")
        object.__setattr__(self, "grid", None if grid is None else tuple(grid))
        if not 0 < self.p < 1:
            raise ValueError(f"p must lie in (0, 1), got {self.p}")
        if not callable(self.target):
            raise TypeError(f"target must be callable with a box and a label, got {type(self.target).__name__}")
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation must be one of {NORMALISATIONS}, got {self.normalisation!r}")
        if self.variance_reduction not in VARIANCE_REDUCTIONS:
            raise ValueError(
                f"variance_reduction must be one of {VARIANCE_REDUCTIONS}, got {self.variance_reduction!r}"
            )
        check_batch_size(self.batch_size)
        autocast(torch.device("cpu"), self.precision)

    def most_passes(self, n_boxes: int) -> int:
        """How many passes ``n_boxes`` boxes of one image take at most, to be told before they start."""
        return self.most_masks if self.n_masks == "auto" else self.n_masks

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel.

        With ``keep_partial``, Ctrl-C after the first masks gives what there is, marked as ``partial``.

        Raises:
            ValueError: a setting or a label is wrong.
        """
        start = time.perf_counter()
        if len(detections) == 0:
            return []
        sample = self.sample(detector, image, detections)
        found = self.estimate(sample)
        for place in (sample.scores == 0).all(1).nonzero().flatten().tolist():
            log.warning("%s scores 0 under every mask, so its map is empty: raise p", detections.name(place))
        size = sample.canvas.geometry.image_size
        maps = (sample.lattice.to_pixels(one, size).cpu().numpy() for one in (found.values, found.standard_error))
        values, errors = maps
        agreement, clean = found.expected_correlation.tolist(), sample.clean.tolist()
        n_masks, grid = sample.scores.shape[1], list(sample.lattice.masks.grid)
        cost = Cost(time.perf_counter() - start, forward_passes=sample.canvas.n_passes(1 + n_masks))
        return [
            Explanation(
                values[i],
                sample.canvas.clean.images[0],
                self.name,
                settings_of(self),
                cost,
                detections[i],
                model=detector.describe(),
                standard_error=errors[i],
                partial=sample.partial,
                details={
                    "n_masks": n_masks,
                    "grid": grid,
                    "clean_score": clean[i],
                    "expected_correlation": agreement[i],
                    **sample.canvas.details(),
                },
            )
            for i in range(len(detections))
        ]

    def sample(self, detector: Detector, image: Image, detections: Detections) -> Sample:
        """What every detection scores under the masks, before any map is made of it."""
        canvas = Canvas.of(detector, image, self.fill, self.seed)
        boxes = canvas.geometry.boxes_to_input(detections.boxes)
        grid: Any = self.grid or grid_for(canvas.size, boxes)  # __post_init__ made a number a pair
        lattice = Lattice(RiseMasks(canvas.size, grid, self.seed, self.p))
        targets, clean = self._questions(detector, canvas, detections)
        none = torch.empty(len(targets), 0, device=clean.device)
        return self._extended(Sample(canvas, lattice, clean, none), detector, targets)

    def estimate(self, sample: Sample) -> Estimate:
        """The maps on the sample's lattice."""
        return estimate(sample.scores, sample.lattice, self.normalisation, self.variance_reduction)

    def _questions(self, detector: Detector, canvas: Canvas, detections: Detections) -> tuple[list[Target], Tensor]:
        """The targets, and their scores (T,) on the whole image."""
        with torch.no_grad():
            candidates = canvas.candidates(detector, canvas.clean)
        targets: list[Target] = []
        if self.target is SimilarityTarget:
            targets += SimilarityTarget.seen_in(candidates, detections)
        else:
            targets += ask_about(detections, self.target)
        return targets, score_targets(targets, candidates)[:, 0]

    def _extended(self, sample: Sample, detector: Detector, targets: Sequence[Target]) -> Sample:
        """The sample with as many masks as asked for, or as there were before Ctrl-C."""
        most = self.most_masks if self.n_masks == "auto" else self.n_masks
        scores, done = sample.scores.new_zeros(len(targets), most), 0
        settings: dict[str, Any] = {
            "batch_size": self.batch_size, "precision": self.precision, "channels_last": self.channels_last
        }  # fmt: skip
        with detector.borrowed(), self._bar(most) as bar:
            try:
                for stop in _looks(most) if self.n_masks == "auto" or not bar.disable else [most]:
                    wanted = range(done, stop)
                    masks, canvas = sample.lattice.masks, sample.canvas
                    for place, answer in scores_under(masks, wanted, detector, canvas, targets, **settings):
                        done = wanted.start + place + answer.shape[1]
                        scores[:, wanted.start + place : done] = answer
                        bar.update(answer.shape[1])
                    sample = replace(sample, scores=scores[:, :done])
                    if stop < most and self._settled(sample, bar):
                        break
            except KeyboardInterrupt:
                if not self.keep_partial or done < WORTH_KEEPING:
                    raise
                return replace(sample, scores=scores[:, :done], partial=True)
        return sample

    def _settled(self, sample: Sample, bar: tqdm) -> bool:
        agreement = float(self.estimate(sample).expected_correlation.min())
        bar.set_postfix(expected_correlation=f"{agreement:.2f}")
        return self.n_masks == "auto" and agreement >= 1 - self.tolerance

    def _bar(self, n: int) -> tqdm:
        return tqdm(total=n, desc="masking", unit="mask", disable=hides_bar(self.progress), leave=False)


def _looks(most: int) -> list[int]:
    """After how many masks to look at the map: the same for every batch size.

    >>> _looks(500)
    [256, 320, 400, 500]
    """
    looks = [FEWEST]
    while looks[-1] < most:
        looks.append(round(looks[-1] * GROWTH))
    return [*[n for n in looks if n < most], most]
