"""What a mask lets one expect of a score: a linear model, read at the corners of the mask's cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.engine.eigen import eigh
from detxai.engine.masking.soft.lattice import Lattice

ROUNDS = 3  # of adapting the penalty to the weights found so far
STRONGEST = 64  # corners that then choose the penalty: eigenvectors are the dearest part of it
FLOOR = 0.05  # prior spread of a weight that was found to be nothing, as a share of the strongest's
SPREAD = 1.0  # corners: how far a weight speaks for its neighbours


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
        n, centred = len(numbers), scores - scores.mean(1, keepdim=True)
        gram = along = sums = scores.new_zeros(())
        for part, features in corners.chunks(numbers):
            features = features.to(scores)
            gram = gram + features.T @ features
            along = along + centred[:, part] @ features
            sums = sums + features.sum(0)
        gram, squares = gram - torch.outer(sums, sums) / n, centred.square().sum(1)
        weights = _solved(gram[None], along, _penalty(gram[None], along, squares, n))
        for _ in range(ROUNDS):
            scale = _found_around(weights, corners)
            chosen = scale.topk(min(STRONGEST, scale.shape[1])).indices
            among, some = gram[chosen[:, :, None], chosen[:, None]], scale.gather(1, chosen)
            penalty = _penalty(among * some[:, :, None] * some[:, None], along.gather(1, chosen) * some, squares, n)
            weights = _solved(gram * scale[:, :, None] * scale[:, None], along * scale, penalty) * scale
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


def _solved(gram: Tensor, along: Tensor, penalty: Tensor) -> Tensor:
    """(T, K) the weights under these penalties."""
    ridge = penalty[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # symmetric and positive definite: half the work of ``solve``, which also fails in MKL's threads on such a batch
    return torch.cholesky_solve(along[..., None], torch.linalg.cholesky(gram + ridge))[..., 0]


def _found_around(weights: Tensor, corners: Lattice) -> Tensor:
    """(T, K) the root mean square of the weights around each corner, over the largest, and the floor."""
    axes = []
    for n in (len(corners.rows), len(corners.columns)):
        place = torch.arange(n, dtype=weights.dtype, device=weights.device)
        near = torch.exp(-((place[:, None] - place) / SPREAD).square() / 2)
        axes.append(near / near.sum(1, keepdim=True))
    squares = weights.square().unflatten(1, (len(axes[0]), len(axes[1])))
    found = (axes[0] @ squares @ axes[1].T).flatten(1).sqrt()
    return found / found.amax(1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny) + FLOOR
