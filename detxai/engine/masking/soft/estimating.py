"""From scores under random masks to maps, and how far those can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detxai.engine.masking.soft.lattice import Lattice
from detxai.engine.masking.soft.linear_model import LinearModel
from detxai.engine.masking.soft.smoothing import smoothed

LEAST_MEAN = 1e-3  # of a fine map's mean: added to its mean in a cell, so that nothing over nothing is nothing
Normalisation = Literal["slope", "centred", "sum", "density", "expectation"]
NORMALISATIONS: tuple[Normalisation, ...] = ("slope", "centred", "sum", "density", "expectation")
VarianceReduction = Literal["control_variate", "regression", "none"]
VARIANCE_REDUCTIONS: tuple[VarianceReduction, ...] = ("control_variate", "regression", "none")


@dataclass(frozen=True, eq=False)
class Estimate:
    """T maps on a lattice, and their standard errors.

    Attributes:
        values: (T, h, w).
        standard_error: (T, h, w), in the units of ``values``.
    """

    values: Tensor
    standard_error: Tensor

    @property
    def expected_correlation(self) -> Tensor:
        """(T,) in [0, 1]: how well the map of another seed, with as many masks, would correlate with this one.

        What two seeds share is the truth; what varies over one map is truth and noise. So it is
        ``1 - mean(standard_error^2) / variance(values)``.
        """
        noise, whole = self.standard_error.square().mean((1, 2)), self.values.flatten(1).var(1)
        share = noise / whole.clamp(min=torch.finfo(whole.dtype).tiny)
        return torch.where(whole > 0, 1 - share, 0).clamp(0, 1)


def sharpened_by(found: Estimate, fine: Estimate, weight: float) -> Estimate:
    """``P^(1 - w) F^w`` in place of the positive part P of each map: high where both are. P's sum stays.

    Args:
        found: T maps.
        fine: T maps F, of which only the positive part counts.
        weight: w in [0, 1].
    """
    return _combined(found, fine, lambda coarse, fine: coarse ** (1 - weight) * fine**weight)


def resolved_by(found: Estimate, fine: Estimate, cell: tuple[float, float], power: float) -> Estimate:
    """``P (F / mean of F in a cell)^a`` in place of the positive part P of each map. P's sum stays.

    The coarse map says which cell, and the fine one only what lies where within a cell: how high F is as a whole there
    does not count.

    Args:
        found: T maps P that cannot tell apart what lies within a cell.
        fine: T maps F, of which only the positive part counts.
        cell: height and width of a cell in pixels: the standard deviations of the Gaussian that takes the mean.
        power: a, at least 0; 1 trusts F wholly within a cell.

    Source: with a = 1, Liu, 2000, Smoothing filter-based intensity modulation, Int. J. Remote Sensing 21 (18), where a
    coarse image in colour and a fine one without are joined.
    """
    values = fine.values.clamp(min=0)
    within = smoothed(values, cell) + LEAST_MEAN * values.mean((1, 2), keepdim=True)
    within = within.clamp(min=torch.finfo(values.dtype).tiny)
    ratio = Estimate(values / within, fine.standard_error / within)
    return _combined(found, ratio, lambda coarse, fine: coarse * fine**power)


def _combined(found: Estimate, fine: Estimate, rule: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
    """A rule of two maps in place of the positive part of the first, whose sum stays.

    The errors of both are taken to be independent. The slope of a power at 0 has no bound, so a standard error is
    added to each map in turn, in place of a linear approximation. What is negative stays, with its error.
    """
    ours, theirs = found.values.clamp(min=0), fine.values.clamp(min=0)
    both = rule(ours, theirs)
    errors = [rule(ours + found.standard_error, theirs) - both, rule(ours, theirs + fine.standard_error) - both]
    total = ours.sum((1, 2), keepdim=True)
    values, error = shared_out(Estimate(both, torch.hypot(*errors)), total, ours)
    negative = found.values < 0
    return Estimate(torch.where(negative, found.values, values), torch.where(negative, found.standard_error, error))


def shared_out(found: Estimate, total: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """``total`` (T, 1, 1), shared out over the pixels as the positive part of the maps is, and its standard error.

    A map without any positive value becomes ``otherwise`` (T, h, w), without an error.
    """
    positive = found.values.clamp(min=0)
    sums = positive.sum((1, 2), keepdim=True)
    scale = total / sums.clamp(min=torch.finfo(sums.dtype).tiny)
    return torch.where(sums > 0, positive * scale, otherwise), torch.where(sums > 0, found.standard_error * scale, 0)


def estimate(
    scores: Tensor,
    lattice: Lattice,
    normalisation: Normalisation = "slope",
    variance_reduction: VarianceReduction = "control_variate",
) -> Estimate:
    """Maps from scores.

    With w the score under mask M:

    - ``"slope"``: ``Cov(w, M(x)) / Var(M(x))``, how much more score comes with a pixel that is shown. Pixels that
      these masks happen to show more often gain nothing from it.
    - ``"centred"``: ``mean of (w - mean w) M(x)`` (Microsoft's).
    - ``"sum"``: ``sum of w M(x)`` (D-RISE as published).
    - ``"density"``: ``sum of w M(x) / sum of M(x)`` (XAITK, xplique).
    - ``"expectation"``: ``sum of w M(x) / (n p)`` (RISE).

    A linear model of the score from its mask makes the slopes less a matter of chance:

    - ``"control_variate"``: the model predicts a part of each score whose covariance with every pixel is known, so
      only the rest is left to chance. Unbiased, and the standard errors hold at every pixel.
    - ``"regression"``: the model's own slopes. Least error on real images, but small effects are shrunk towards 0
      (BENCHMARKS.md has the bias); the standard errors are those of the unbiased map from the same masks.
    - ``"none"``: neither. The published normalisations know no other.

    Args:
        scores: (T, n) of T targets under masks 0 to n - 1; n >= 4.
        lattice: of the masks.
        normalisation: one of these.
        variance_reduction: one of these.
    """
    wide = scores.float() if scores.device.type == "mps" else scores.double()
    if normalisation != "slope":
        values, error = _published(wide, lattice, normalisation)
    else:
        values, error = _slope(wide, lattice, model=variance_reduction != "none")
        if variance_reduction == "regression":
            numbers = torch.arange(wide.shape[1], device=wide.device)
            values = LinearModel.fit(lattice, numbers, wide).covariance(lattice) / lattice.variance.flatten().to(wide)
    shape = (len(scores), len(lattice.rows), len(lattice.columns))
    return Estimate(values.reshape(shape).float(), error.reshape(shape).float())


def _slope(scores: Tensor, lattice: Lattice, *, model: bool) -> tuple[Tensor, Tensor]:
    """The unbiased slopes and their standard errors; with a linear model of the score as a control variate.

    ``Cov(w, M) = Cov(w - b F, M) + b Cov(F, M)`` for any weights b of the mask's values F at the corners of its cells,
    if the masks in use have not chosen them; the last term is known exactly. Masks with even numbers fit the model for
    those with odd ones and the other way round: unbiased, and both halves are used.
    """
    numbers = torch.arange(scores.shape[1], device=scores.device)
    halves = [numbers[0::2], numbers[1::2]]
    models = [LinearModel.fit(lattice, half, scores[:, half]) if model else None for half in halves]
    value, variance = scores.new_zeros(()), scores.new_zeros(())
    for half, other in zip(halves, reversed(models), strict=True):
        left = scores[:, half] if other is None else scores[:, half] - other(half)
        first, second = _moments(left, half, lattice)
        n = len(half)
        value = value + (first / (n - 1) + (0 if other is None else other.covariance(lattice))) / 2
        variance = variance + (second / n - (first / n).square()) / (n - 1) / 4
    spread = lattice.variance.flatten().to(scores)
    return value / spread, variance.clamp(min=0).sqrt() / spread


def _moments(scores: Tensor, numbers: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """The sums over masks of (w - mean w) (M - p), and of its square; (T, h * w) both."""
    centred = scores - scores.mean(1, keepdim=True)
    first = second = scores.new_zeros(())
    for part, masks in lattice.chunks(numbers):
        masks = masks.to(scores)
        first = first + centred[:, part] @ masks
        second = second + centred[:, part].square() @ masks.square()
    return first, second


def _published(scores: Tensor, lattice: Lattice, kind: Normalisation) -> tuple[Tensor, Tensor]:
    """The map of another normalisation and its standard error (of the ratio, by the delta method)."""
    n, p = scores.shape[1], lattice.masks.p
    numbers = torch.arange(n, device=scores.device)
    if kind == "centred":
        first, second = _moments(scores, numbers, lattice)
        return first / n, (second - first.square() / n).clamp(min=0).sqrt() / n
    m = mm = wm = wmm = wwmm = scores.new_zeros(())
    for part, less_p in lattice.chunks(numbers):
        masks, w = less_p.to(scores) + p, scores[:, part]
        squares = masks.square()
        m, mm = m + masks.sum(0), mm + squares.sum(0)
        wm, wmm, wwmm = wm + w @ masks, wmm + w @ squares, wwmm + w.square() @ squares
    if kind == "density":
        density = wm / m.clamp(min=torch.finfo(m.dtype).tiny)
        spread = wwmm - 2 * density * wmm + density.square() * mm
        return density, spread.clamp(min=0).sqrt() / m.clamp(min=torch.finfo(m.dtype).tiny)
    unit = 1.0 if kind == "sum" else n * p
    return wm / unit, (wwmm - wm.square() / n).clamp(min=0).sqrt() / unit
