"""D-RISE: which pixels a random view of the image must show for the box to be found."""

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
from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.estimating import (
    NORMALISATIONS,
    VARIANCE_REDUCTIONS,
    Estimate,
    Normalisation,
    VarianceReduction,
    estimate,
)
from detxai.engine.masking.soft.image_masks import grid_for
from detxai.engine.masking.soft.lattice import Lattice
from detxai.engine.masking.soft.masks import RiseMasks
from detxai.engine.precision import check_precision
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_choice, check_count, check_fraction, check_seed, check_target
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import SimilarityTarget, Target, ask_about, score_targets

log = logging.getLogger(__name__)

FIRST_CHECK = 256  # masks before "auto" checks for the first time; the error of fewer is itself too uncertain
GROWTH = 1.25  # of the masks from one check to the next, as a factor
MIN_MASKS = 16  # fewer masks give no map, also where the work is interrupted


@dataclass(frozen=True, eq=False)
class MaskScores:
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

    @property
    def n_masks(self) -> int:
        return self.scores.shape[1]

    @property
    def n_passes(self) -> int:
        """Forward passes: one for each mask, and one for the whole image."""
        return self.canvas.n_passes(1 + self.n_masks)


@dataclass(frozen=True)
class DRISE:
    """How much the score of a detection rises with each pixel that a random view of the image shows.

    The detector sees the image through random smooth masks M. The score ``w`` of a view says how similar its most
    similar candidate is to the detection. ``values = Cov(w, M(x)) / Var(M(x))``: how much higher the score is when
    pixel x is shown, in units of the score. One set of masked images serves all detections. The method needs nothing
    but the detector's answers, so it works with any detector (``detxai.wrap(function)``).

    Args:
        n_masks: how many masks, at least 16; ``"auto"`` makes as many as ``tolerance`` needs.
        seed: of the masks; mask number i depends on (seed, i) alone, so batch size and stopping change nothing.
        tolerance: for ``"auto"``, in (0, 1): stop when, for every detection, the map of another seed would correlate
            with this one by 1 - ``tolerance`` or more. The correlation is estimated from the standard errors.
        most_masks: for ``"auto"``: the largest number of masks.
        grid: cells of a mask, (rows, columns) or one number for both; None: square cells whose side is half that of the
            smallest box (the square root of its area), at least 5 and at most 24 across the image's shorter side.
        p: probability that a cell shows the image, in (0, 1). Raise it if the detector finds little in the views.
        fill: what is seen where the image is hidden: ``"black"`` (the paper), ``"mean"``, ``"blur"``, ``"noise"`` or
            an RGB colour in [0, 1].
        target: the question about a box: a function from its box and label to a target. The default compares
            candidates with the class scores of the candidate that became the detection.
        normalisation: see ``detxai.engine.masking.soft.estimating.estimate``; ``"sum"`` is the paper's.
        variance_reduction: ``"control_variate"`` (unbiased), ``"regression"`` (less error on real images with few
            masks, but small effects are shrunk) or ``"none"``: see ``estimate``. Only for the normalisation
            ``"slope"``.
        batch_size: masked images at once; None: as many as fit on the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        channels_last: whether the detector gets its images in the channels-last memory format.
        keep_partial: if True, Ctrl-C stops the work and returns the map so far, marked ``partial``; if False, it raises
            ``KeyboardInterrupt``.
        progress: whether to show a progress bar; None: only in a terminal.

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
        if self.n_masks != "auto" and (not isinstance(self.n_masks, int) or self.n_masks < MIN_MASKS):
            raise ValueError(f"n_masks must be a whole number from {MIN_MASKS}, or 'auto', got {self.n_masks!r}")
        check_seed(self.seed)
        check_fraction("tolerance", self.tolerance, "(0, 1)")
        check_count("most_masks", self.most_masks, FIRST_CHECK)
        grid = (self.grid, self.grid) if isinstance(self.grid, int) else self.grid
        if grid is not None and (len(grid) != 2 or not all(isinstance(n, int) and n > 0 for n in grid)):
            raise ValueError(f"grid must be (rows, columns), both from 1, or one number, got {self.grid!r}")
        object.__setattr__(self, "grid", None if grid is None else tuple(grid))
        check_fraction("p", self.p, "(0, 1)")
        check_target(self.target)
        check_choice("normalisation", self.normalisation, NORMALISATIONS)
        check_choice("variance_reduction", self.variance_reduction, VARIANCE_REDUCTIONS)
        check_batch_size(self.batch_size)
        check_precision(self.precision)

    def most_passes(self, n_boxes: int) -> int:
        """How many passes ``n_boxes`` boxes of one image take at most, for an estimate before they start."""
        return self.most_masks if self.n_masks == "auto" else self.n_masks

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel.

        With ``keep_partial``, Ctrl-C after the first masks gives what there is, marked as ``partial``.

        Raises:
            ValueError: a setting or a label is wrong.
        """
        started = time.perf_counter()
        if len(detections) == 0:
            return []
        sample = self.sample(detector, image, detections)
        _warn_of_empty_maps(sample, detections)
        found = self.estimate(sample)
        size = sample.canvas.geometry.image_size
        values, errors = (sample.lattice.to_pixels(maps, size) for maps in (found.values, found.standard_error))
        return explanations(
            self, detector, sample.canvas.clean, detections, values,
            started=started, passes=sample.n_passes, details=_records(sample, found),
            standard_errors=errors, partial=sample.partial,
        )  # fmt: skip

    def sample(self, detector: Detector, image: Image, detections: Detections) -> MaskScores:
        """What every detection scores under the masks, before any map is made of it."""
        canvas = Canvas.with_fill(detector, image, self.fill, self.seed)
        boxes = canvas.geometry.boxes_to_input(detections.boxes)
        grid: Any = self.grid or grid_for(canvas.size, boxes)  # __post_init__ made a number a pair
        lattice = Lattice(RiseMasks(canvas.size, grid, self.seed, self.p))
        targets, clean = self._questions(detector, canvas, detections)
        scorer = ViewScorer(detector, canvas, targets, self.batch_size, self.precision, self.channels_last)
        none = torch.empty(len(targets), 0, device=clean.device)
        return self._extended(MaskScores(canvas, lattice, clean, none), scorer)

    def estimate(self, sample: MaskScores) -> Estimate:
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

    def _extended(self, sample: MaskScores, scorer: ViewScorer) -> MaskScores:
        """The sample with as many masks as asked for, or as there were before Ctrl-C."""
        most = self.most_masks if self.n_masks == "auto" else self.n_masks
        scores, done = sample.scores.new_zeros(len(scorer.targets), most), 0
        with scorer.detector.borrowed(), progress_bar(self.progress, most, "masking", "mask") as bar:
            try:
                for stop in _checks(most) if self.n_masks == "auto" or not bar.disable else [most]:
                    for found in scorer.batches(sample.lattice.masks, range(done, stop)):
                        scores[:, done : done + found.shape[1]] = found
                        done += found.shape[1]
                        bar.update(found.shape[1])
                    sample = replace(sample, scores=scores[:, :done])
                    if stop < most and self._settled(sample, bar):
                        break
            except KeyboardInterrupt:
                if not self.keep_partial or done < MIN_MASKS:
                    raise
                return replace(sample, scores=scores[:, :done], partial=True)
        return sample

    def _settled(self, sample: MaskScores, bar: tqdm) -> bool:
        agreement = float(self.estimate(sample).expected_correlation.min())
        bar.set_postfix(expected_correlation=f"{agreement:.2f}")
        return self.n_masks == "auto" and agreement >= 1 - self.tolerance


def _warn_of_empty_maps(sample: MaskScores, detections: Detections) -> None:
    for place in (sample.scores == 0).all(1).nonzero().flatten().tolist():
        log.warning("%s scores 0 under every mask, so its map is empty: raise p", detections.name(place))


def _records(sample: MaskScores, found: Estimate) -> list[dict[str, Any]]:
    """What is recorded of each detection beside its map."""
    about = {"n_masks": sample.n_masks, "grid": list(sample.lattice.masks.grid)}
    return [
        {**about, "clean_score": clean, "expected_correlation": agreement, **sample.canvas.details()}
        for clean, agreement in zip(sample.clean.tolist(), found.expected_correlation.tolist(), strict=True)
    ]


def _checks(most: int) -> list[int]:
    """After how many masks to check whether the map is known well enough: the same for every batch size.

    >>> _checks(500)
    [256, 320, 400, 500]
    """
    checks = [FIRST_CHECK]
    while checks[-1] < most:
        checks.append(round(checks[-1] * GROWTH))
    return [*[n for n in checks if n < most], most]
