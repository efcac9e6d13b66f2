"""Noisy linear imputation: a removed pixel becomes the weighted mean of its neighbours, so that no edge is left."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

TOLERANCE = 1e-5  # of the residual, relative to the image: no pixel is then off by more than a thousandth
MOST_ITERATIONS = 200  # some ten are needed
DAMPING = 0.8  # of a Jacobi step: it then shrinks whatever changes from pixel to pixel


def impute(image: Tensor, keep: Tensor, noise: float = 0.01, seed: int = 0) -> Tensor:
    """The image without some of its pixels: each missing one is the weighted mean of its eight neighbours.

    The neighbours may be missing too, so this is a linear system. It is solved on the image's device for all masks at
    once, by conjugate gradients with a multigrid cycle as preconditioner.

    Args:
        image: (3, h, w), in any affine scale of the pixel values.
        keep: (B, h, w) bool; False where a pixel is missing.
        noise: standard deviation of what is added to the missing pixels, as a share of the image's own.
        seed: of the random noise.

    Returns:
        (B, 3, h, w), dtype of the image; with nothing kept, the image's mean colour.

    Source: Rong et al., 2022, ROAD (ICML), noisy linear imputation. Differs in the solver (iterative, to a residual of
    1e-5, not a sparse factorisation on the host) and in the noise, which is relative.
    """
    missing = ~keep[:, None]
    pixels = image.float()
    mean = pixels.mean((1, 2), keepdim=True)
    spread = pixels.std((1, 2), keepdim=True)
    centred = torch.where(missing, 0, pixels - mean)
    generator = torch.Generator().manual_seed(seed)  # drawn on the host: the same on every device
    grain = noise * spread * torch.randn(pixels.shape, generator=generator).to(pixels.device)
    return torch.where(missing, _solve(centred, missing) + mean + grain, pixels).to(image.dtype)


def _solve(known: Tensor, missing: Tensor) -> Tensor:
    """x (B, 3, h, w), zero on the known pixels, with ``degree x - neighbours(x) = neighbours(known)`` on the others.

    The matrix is symmetric, and positive definite where one pixel of the image is known; where none is, x stays 0.
    """
    grid = _Grid.from_missing(missing)
    tiny = torch.finfo(known.dtype).tiny
    enough = _inner(known, known) * TOLERANCE**2
    x = torch.where(missing, _smoothed(known, ~missing), 0)
    residual = grid.apply(-x).add_(_neighbours(known) * grid.missing)
    step, before = torch.zeros_like(x), torch.ones_like(enough)
    for _ in range(MOST_ITERATIONS):
        if bool((_inner(residual, residual) <= enough).all()):
            return x
        better = grid.cycle(residual)
        now = _inner(residual, better)
        step = better + now / before.clamp(min=tiny) * step
        applied = grid.apply(step)
        length = now / _inner(step, applied).clamp(min=tiny)
        x, residual, before = x + length * step, residual - length * applied, now
    log.warning("imputation stopped after %d iterations short of its tolerance", MOST_ITERATIONS)
    return x


@dataclass(frozen=True)
class _Grid:
    """The system on one grid, and on all coarser ones.

    Attributes:
        missing: (B, 1, h, w), 1 for an unknown pixel, 0 for a known one.
        degree: (1, 1, h, w) sum of the weights of a pixel's neighbours within the grid.
        coarser: the grid of half the size, where a pixel is unknown if all four of its parts are; None: the last.
    """

    missing: Tensor
    degree: Tensor
    coarser: _Grid | None

    @classmethod
    def from_missing(cls, missing: Tensor) -> _Grid:
        unknown = missing.float()
        fewer = 1 - F.max_pool2d(1 - unknown, 2, ceil_mode=True)
        last = min(missing.shape[-2:]) < 4
        return cls(unknown, _neighbours(torch.ones_like(unknown[:1])), None if last else cls.from_missing(fewer))

    def apply(self, x: Tensor) -> Tensor:
        """The matrix times x."""
        return (self.degree * x).sub_(_neighbours(x)).mul_(self.missing)

    def cycle(self, residual: Tensor) -> Tensor:
        """About the solution for a right-hand side: a Jacobi step before and after one on the coarser grids."""
        jacobi = DAMPING * self.missing / self.degree
        x = jacobi * residual
        if self.coarser is not None:
            left = F.avg_pool2d(residual - self.apply(x), 2, ceil_mode=True, divisor_override=1)
            up = F.interpolate(self.coarser.cycle(left), scale_factor=2.0, mode="nearest")
            x += up[..., : x.shape[-2], : x.shape[-1]] * self.missing
        return x + jacobi * (residual - self.apply(x))


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((2, 3), keepdim=True)


def _neighbours(x: Tensor) -> Tensor:
    """The weighted sum of each pixel's eight neighbours, 1/6 the four beside it and 1/12 its corners.

    Those beyond the edge are 0. The weights are ``([1 2 1]' [1 2 1] - 4 at the centre) / 12``: rows, then columns.
    """
    rows = 2 * x
    rows[..., 1:, :] += x[..., :-1, :]
    rows[..., :-1, :] += x[..., 1:, :]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both.sub_(x, alpha=4).div_(12)


def _smoothed(known: Tensor, present: Tensor) -> Tensor:
    """A first guess for the missing pixels: each from the finest of ever coarser images that has something there."""
    weight = present.to(known.dtype)
    if min(known.shape[-2:]) < 2:
        mean = (known * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(present, known, mean)
    halved = [F.avg_pool2d(x, 2, ceil_mode=True) for x in (known, weight)]
    there = halved[1] > 0
    coarse = _smoothed(torch.where(there, halved[0] / torch.where(there, halved[1], 1), 0), there)
    return torch.where(present, known, F.interpolate(coarse, known.shape[-2:], mode="bilinear", align_corners=False))
