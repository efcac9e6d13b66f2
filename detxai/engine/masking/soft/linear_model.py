"""A linear model that predicts a score from a mask, read at the corners of the mask's cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.engine.eigenvectors import eigh
from detxai.engine.masking.soft.lattice import Lattice

ROUNDS = 3  # of adapting each weight's penalty to the weights found so far
STRONGEST = 64  # corners that the penalty is chosen by in those rounds: eigenvectors cost most of the time
FLOOR = 0.05  # prior spread of a weight of 0, as a share of the strongest weight's
SPREAD = 1.0  # corners: standard deviation over which neighbouring weights are averaged


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A linear prediction of T scores from the values of masks at K corners, by adaptive ridge regression.

    First every weight is penalised alike; then each in inverse proportion to what was found at and around its corner,
    so that noise where nothing happens is suppressed and evidence is not. Every penalty is chosen for each target by
    generalised cross-validation.

    Attributes:
        corners: where masks are read.
        weights: (T, K).

    Source: Golub, Heath & Wahba, 1979 (Technometrics 21), for the penalty; Grandvalet, 1998 (ICANN), adaptive ridge.
    """

    corners: Lattice
    weights: Tensor

    @classmethod
    def fit(cls, lattice: Lattice, numbers: Tensor, scores: Tensor) -> LinearModel:
        """The model of scores (T, n) under the masks of these numbers (n,)."""
        corners = Lattice(lattice.masks, points=1)
        moments = _Moments.from_masks(corners, numbers, scores)
        gram, along = moments.gram[None], moments.along
        weights = _ridge_weights(gram, along, _penalty(gram, along, moments.squares, moments.n))
        for _ in range(ROUNDS):
            spread = _prior_spread(weights, corners)
            gram, along = moments.rescaled(spread)
            weights = _ridge_weights(gram, along, moments.penalty_of_strongest(spread)) * spread
        return cls(corners, weights)

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


@dataclass(frozen=True, eq=False)
class _Moments:
    """The sums over n masks that a ridge regression of T scores on K features is solved from.

    Attributes:
        gram: (K, K) of the centred features.
        along: (T, K) of the features with the centred scores.
        squares: (T,) of the centred scores.
        n: how many masks.
    """

    gram: Tensor
    along: Tensor
    squares: Tensor
    n: int

    @classmethod
    def from_masks(cls, corners: Lattice, numbers: Tensor, scores: Tensor) -> _Moments:
        """Of scores (T, n) and the masks of these numbers (n,), read at the corners."""
        n, centred = len(numbers), scores - scores.mean(1, keepdim=True)
        gram = along = sums = scores.new_zeros(())
        for part, features in corners.chunks(numbers):
            features = features.to(scores)
            gram = gram + features.T @ features
            along = along + centred[:, part] @ features
            sums = sums + features.sum(0)
        return cls(gram - torch.outer(sums, sums) / n, along, centred.square().sum(1), n)

    def rescaled(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        """``gram`` (T, K, K) and ``along`` (T, K) of the features times their prior spread (T, K)."""
        return self.gram * spread[:, :, None] * spread[:, None], self.along * spread

    def penalty_of_strongest(self, spread: Tensor) -> Tensor:
        """(T,) the penalty for features times their prior spread (T, K), chosen by those of largest spread alone."""
        corners = spread.topk(min(STRONGEST, spread.shape[1])).indices
        spread = spread.gather(1, corners)
        gram = self.gram[corners[:, :, None], corners[:, None]] * spread[:, :, None] * spread[:, None]
        return _penalty(gram, self.along.gather(1, corners) * spread, self.squares, self.n)


def _penalty(gram: Tensor, along: Tensor, squares: Tensor, n: int) -> Tensor:
    """(T,) the ridge penalty of least generalised cross-validation error.

    Args:
        gram: (T or 1, K, K) of centred features.
        along: (T, K) their sums of products with the scores.
        squares: (T,) the scores' sums of squares.
        n: how many masks.
    """
    size, vectors = eigh(gram)
    size, tiny = size.clamp(min=0), torch.finfo(size.dtype).tiny
    there = size > torch.finfo(size.dtype).eps * size.amax(1, keepdim=True)
    explained = torch.where(there, (along[:, None] @ vectors)[:, 0].square() / size.clamp(min=tiny), 0)
    tried = size.mean(1, keepdim=True) * torch.logspace(-4, 4, 33, dtype=size.dtype, device=size.device)
    tried = tried.clamp(min=tiny)
    kept = size[:, None] / (size[:, None] + tried[..., None])  # (T or 1, R, K)
    error = squares[:, None] - ((1 - (1 - kept).square()) * explained[:, None]).sum(2)
    freedom = (n - kept.sum(2)).clamp(min=1)
    best = (error / freedom.square()).argmin(1, keepdim=True)
    return tried.expand(len(along), -1).gather(1, best)[:, 0]


def _ridge_weights(gram: Tensor, along: Tensor, penalty: Tensor) -> Tensor:
    """(T, K) the weights under these penalties (T,)."""
    ridge = penalty[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # symmetric and positive definite: half the work of ``solve``, which also fails in MKL's threads on such a batch
    return torch.cholesky_solve(along[..., None], torch.linalg.cholesky(gram + ridge))[..., 0]


def _prior_spread(weights: Tensor, corners: Lattice) -> Tensor:
    """(T, K) how far from 0 each weight may lie: the root mean square around it over the largest, and a floor."""
    axes = []
    for n in (len(corners.rows), len(corners.columns)):
        place = torch.arange(n, dtype=weights.dtype, device=weights.device)
        near = torch.exp(-((place[:, None] - place) / SPREAD).square() / 2)
        axes.append(near / near.sum(1, keepdim=True))
    squares = weights.square().unflatten(1, (len(axes[0]), len(axes[1])))
    found = (axes[0] @ squares @ axes[1].T).flatten(1).sqrt()
    return found / found.amax(1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny) + FLOOR
