"""A mixture of Gaussians over the features of some levels: which concept a cell belongs to, and cells without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Removal = Literal["mean", "project"]
"""How a concept is removed from features: its cells moved to the mean of the others, or its direction projected out."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """K concepts of the cells of some levels, as Gaussians in D coordinates of their C features; all float64.

    A cell with features x has the coordinates ``u = (x - mean) @ basis`` and belongs to concept k with probability
    ``r_k ~ weights_k * N(u; centres_k, covariances_k)``.

    Attributes:
        levels: names of the levels of features that share these concepts.
        mean: (C,) of the features.
        basis: (C, D).
        weights: (K,), which sum to 1.
        centres: (K, D).
        covariances: (K, D, D), positive definite.
        places: (K, C) the mean features of each concept's cells, in the space of the features themselves.

    Raises:
        ValueError: shapes that do not fit one another, or a covariance that is not positive definite.
    """

    levels: tuple[str, ...]
    mean: Tensor
    basis: Tensor
    weights: Tensor
    centres: Tensor
    covariances: Tensor
    places: Tensor

    def __post_init__(self) -> None:
        n, (c, d) = len(self.weights), self.basis.shape
        expected = {"mean": (c,), "centres": (n, d), "covariances": (n, d, d), "places": (n, c)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(getattr(self, name).shape)}")
        if int(torch.linalg.cholesky_ex(self.covariances).info.max()) > 0:
            raise ValueError("covariances must be positive definite")

    def __len__(self) -> int:
        """How many concepts there are."""
        return len(self.weights)

    def memberships(self, level: Tensor) -> Tensor:
        """To which concepts the cells of a level belong.

        Args:
            level: (1, C, h, w) features.

        Returns:
            (K, h, w) float64 on the level's device; each cell's sum to 1.
        """
        cells = level[0].flatten(1).T.double()
        parts = [
            part.to(cells.device) for part in (self.mean, self.basis, self.weights, self.centres, self.covariances)
        ]
        mean, basis, weights, centres, covariances = parts
        factors = torch.linalg.cholesky(covariances)
        distances = ((cells - mean) @ basis)[None] - centres[:, None]  # (K, cells, D)
        scaled = torch.linalg.solve_triangular(factors, distances.transpose(1, 2), upper=False)
        log_determinants = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * basis.shape[1] * math.log(2 * math.pi)
        log_densities = weights.log()[:, None] - 0.5 * scaled.square().sum(1) - (log_determinants + constant)[:, None]
        return log_densities.softmax(0).unflatten(1, level.shape[2:])

    def without(self, level: Tensor, memberships: Tensor, concepts: Sequence[int], removal: Removal) -> Tensor:
        """Versions of a level, each without one concept.

        ``"mean"``: a cell is moved to the mean features of the other concepts as far as it belongs to this one,
        ``x + r_k (others_k - x)``. ``"project"``: from every cell the component along the concept's direction
        ``d_k = places_k - others_k`` is taken, where it is towards the concept: ``x - max(0, (x - others_k) . d) d``
        with d of length 1.

        Args:
            level: (1, C, h, w).
            memberships: (K, h, w) of it.
            concepts: B numbers of concepts.
            removal: how.

        Returns:
            (B, C, h, w), dtype and device of the level.
        """
        chosen = list(concepts)
        others = self._means_of_others()[chosen].to(level.device, level.dtype)[:, :, None, None]  # (B, C, 1, 1)
        if removal == "mean":
            share = memberships[chosen].to(level.dtype)[:, None]
            return level + share * (others - level)
        direction = self.places[chosen].to(level.device, level.dtype)[:, :, None, None] - others
        direction = torch.nn.functional.normalize(direction, dim=1)
        along = ((level - others) * direction).sum(1, keepdim=True).clamp(min=0)
        return level - along * direction

    def _means_of_others(self) -> Tensor:
        """(K, C): the mean features of all concepts but one, weighted as they are."""
        share = self.weights[None].repeat(len(self), 1).fill_diagonal_(0)
        totals = share.sum(1, keepdim=True)
        means = share @ self.places / torch.where(totals > 0, totals, 1)
        return torch.where(totals > 0, means, self.mean)  # a single concept has no others
