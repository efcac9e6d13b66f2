"""From scores under random masks to maps, and how far those can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from detxai.engine.masks import RiseMasks

Normalisation = Literal["slope", "centred", "sum", "density", "expectation"]
NORMALISATIONS: tuple[Normalisation, ...] = ("slope", "centred", "sum", "density", "expectation")
POINTS = 8  # of the lattice for each cell and axis
CHUNK = 256  # masks at a time, whatever the detector's batch was: sums must not depend on it


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


@dataclass(frozen=True)
class Lattice:
    """The pixels where maps are estimated: several for each cell of the masks, which are linear in between.

    Args:
        masks: whose cells set the distance between the points.
        points: for each cell and axis.
    """

    masks: RiseMasks
    points: int = POINTS

    @cached_property
    def rows(self) -> Tensor:
        return _spread(self.masks.size[0], max(1, self.masks.cell[0] // self.points))

    @cached_property
    def columns(self) -> Tensor:
        return _spread(self.masks.size[1], max(1, self.masks.cell[1] // self.points))

    def chunks(self, numbers: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The masks of these numbers at the points, less p, (n, h * w), a chunk at a time and which chunk it is."""
        for start in range(0, len(numbers), CHUNK):
            part = slice(start, min(start + CHUNK, len(numbers)))
            yield part, self.masks(numbers[part], self.rows, self.columns).flatten(1) - self.masks.p

    def covariance(self, other: Lattice) -> tuple[Tensor, Tensor]:
        """The known covariance of masks between these points and others', an axis each, less the factor p (1 - p)."""
        vertical, horizontal = self.masks.kernels
        return vertical[self.rows][:, other.rows], horizontal[self.columns][:, other.columns]

    @property
    def variance(self) -> Tensor:
        """(h, w) float64: the known variance of masks at the points."""
        vertical, horizontal = self.covariance(self)
        return self.masks.p * (1 - self.masks.p) * vertical.diagonal()[:, None] * horizontal.diagonal()[None]

    def to_pixels(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        """Values (..., h, w) at the points, as a map (..., *size) over the masks' extent at another resolution."""
        axes = []
        for points, n_pixels, n_out in zip((self.rows, self.columns), self.masks.size, size, strict=True):
            places = (torch.arange(n_out, dtype=torch.float64) + 0.5) * n_pixels / n_out - 0.5
            axes.append(_between(points, places).to(values.device, values.dtype))
        return axes[0] @ values @ axes[1].T


def _spread(n_pixels: int, step: int) -> Tensor:
    """Whole numbers from the first pixel to the last, at most ``step`` apart."""
    return torch.linspace(0, n_pixels - 1, math.ceil((n_pixels - 1) / step) + 1, dtype=torch.float64).round().long()


def _between(points: Tensor, places: Tensor) -> Tensor:
    """(places, points) the matrix that interpolates linearly from points (ascending) to places, constant beyond."""
    if len(points) == 1:
        return torch.ones(len(places), 1, dtype=torch.float64)
    places = places.clamp(int(points[0]), int(points[-1]))
    high = torch.searchsorted(points.double(), places).clamp(1, len(points) - 1)
    share = (places - points[high - 1]) / (points[high] - points[high - 1])
    rows, matrix = torch.arange(len(places)), torch.zeros(len(places), len(points), dtype=torch.float64)
    matrix[rows, high - 1], matrix[rows, high] = 1 - share, share
    return matrix


def estimate(
    scores: Tensor, lattice: Lattice, normalisation: Normalisation = "slope", *, control_variate: bool = True
) -> Estimate:
    """Maps from scores.

    With w the score under mask M:

    - ``"slope"``: ``Cov(w, M(x)) / Var(M(x))``, how much more score comes with a pixel that is shown. Pixels that
      these masks happen to show more often gain nothing from it. Unbiased.
    - ``"centred"``: ``mean of (w - mean w) M(x)`` (Microsoft's).
    - ``"sum"``: ``sum of w M(x)`` (D-RISE as published).
    - ``"density"``: ``sum of w M(x) / sum of M(x)`` (XAITK, xplique).
    - ``"expectation"``: ``sum of w M(x) / (n p)`` (RISE).

    Args:
        scores: (T, n) of T targets under masks 0 to n - 1; n >= 4.
        lattice: of the masks.
        normalisation: one of these.
        control_variate: see ``_slope``; the published ones have none.
    """
    wide = scores.float() if scores.device.type == "mps" else scores.double()
    found = (
        _slope(wide, lattice, control_variate) if normalisation == "slope" else _published(wide, lattice, normalisation)
    )
    shape = (len(scores), len(lattice.rows), len(lattice.columns))
    return Estimate(*(one.reshape(shape).float() for one in found))


def _slope(scores: Tensor, lattice: Lattice, control_variate: bool) -> tuple[Tensor, Tensor]:
    """The slopes, with a control variate: a linear model b of the score, read at a few corners F of the masks.

    ``Cov(w, M) = Cov(w - b F, M) + b Cov(F, M)`` for any b that the masks in use have not chosen, and the last term
    is known exactly, so only what the model leaves over is left to chance. Masks with even numbers fit the model for
    those with odd ones and the other way round: unbiased, and both halves are used.
    """
    numbers = torch.arange(scores.shape[1], device=scores.device)
    halves = [numbers[0::2], numbers[1::2]]
    models = [LinearModel.fit(lattice, half, scores[:, half]) if control_variate else None for half in halves]
    value, variance = scores.new_zeros(()), scores.new_zeros(())
    for half, model in zip(halves, reversed(models), strict=True):
        left = scores[:, half] if model is None else scores[:, half] - model(half)
        first, second = _moments(left, half, lattice)
        n = len(half)
        value = value + (first / (n - 1) + (0 if model is None else model.covariance(lattice))) / 2
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


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A linear prediction of T scores from the values of a mask at the corners of its cells, by ridge regression.

    Attributes:
        corners: where masks are read.
        weights: (T, K) for each corner.
    """

    corners: Lattice
    weights: Tensor

    @classmethod
    def fit(cls, lattice: Lattice, numbers: Tensor, scores: Tensor) -> LinearModel:
        """The ridge is chosen for each target by generalised cross-validation (Golub, Heath & Wahba, 1979)."""
        corners = Lattice(lattice.masks, points=1)
        n, centred = len(numbers), scores - scores.mean(1, keepdim=True)
        gram = along = sums = scores.new_zeros(())
        for part, features in corners.chunks(numbers):
            features = features.to(scores)
            gram = gram + features.T @ features
            along = along + centred[:, part] @ features
            sums = sums + features.sum(0)
        gram = gram - torch.outer(sums, sums) / n
        size, vectors = torch.linalg.eigh(gram)
        size, along = size.clamp(min=0), along @ vectors  # (K,), (T, K)
        ridge = _ridge(size, along, centred.square().sum(1), n)
        return cls(corners, (along / (size + ridge[:, None])) @ vectors.T)

    def __call__(self, numbers: Tensor) -> Tensor:
        """(T, n) the predictions for masks by number, up to a constant."""
        return torch.cat(
            [self.weights @ features.to(self.weights).T for _, features in self.corners.chunks(numbers)], 1
        )

    def covariance(self, lattice: Lattice) -> Tensor:
        """(T, h * w): the known covariance of the prediction with the masks at the points of ``lattice``."""
        vertical, horizontal = (axis.to(self.weights) for axis in self.corners.covariance(lattice))
        weights = self.weights.unflatten(1, (len(vertical), len(horizontal)))
        p = lattice.masks.p
        return p * (1 - p) * (vertical.T @ weights @ horizontal).flatten(1)


def _ridge(size: Tensor, along: Tensor, squares: Tensor, n: int) -> Tensor:
    """(T,) the ridge of least generalised cross-validation error."""
    tried = size.mean() * torch.logspace(-4, 4, 33, dtype=size.dtype, device=size.device)
    tried = tried.clamp(min=torch.finfo(size.dtype).tiny)
    kept = size / (size + tried[:, None])  # (R, K): what each ridge leaves of each direction
    explained = along.square() / size.clamp(min=torch.finfo(size.dtype).eps * size.max())
    error = squares[:, None] - explained @ (1 - (1 - kept).square()).T  # (T, R)
    freedom = n - kept.sum(1)
    return tried[(error / freedom.square()).argmin(1)]


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
