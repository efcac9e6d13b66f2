"""Kernel SHAP: the linear model of a score that comes nearest to it over coalitions, each weighed by its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Filling
from detxai.engine.masking.regions import INNER, OUTER, random_partitions
from detxai.evaluate.peers.box_scores import BoxScores, check_peer, explain_each
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_count
from detxai.targets import ClassScoreTarget, Target


@dataclass(frozen=True)
class KernelSHAP:
    """Shapley values of the regions of one partition, by weighted least squares.

    Over coalitions z of n regions, ``score(z) = score(nothing) + sum_i z_i phi_i`` is fitted with the weight

        ``(n - 1) / (C(n, |z|) |z| (n - |z|))``

    and with the sum of phi held at ``score(everything) - score(nothing)``. With every coalition the phi are the Shapley
    values exactly; with fewer, coalitions are drawn as often as their size weighs, each with its complement. The map is
    phi over the region's area, as in ``RegionShapley``, whose partitions these are. ``kernel_shap`` is Captum's.

    Args:
        n_coalitions: beside the empty and the full one. Where there are no more than so many, each is asked once.
        inner, outer: cells across the grown box and across the image, see ``random_partitions``.
        fill: what stands where a region is hidden.
        seed: of the partition and of the coalitions.
        target: from a detection's box and label to the target that is scored.
        batch_size: views at once; None: what fits the device.

    Source: Lundberg & Lee, 2017 (NeurIPS), theorem 2; the paired draws are those of the package shap. Differs from it
    in taking all features into the fit (it may select some by an L1 penalty).
    """

    name: ClassVar[str] = "kernel_shap_paired"
    asks_about_boxes: ClassVar[bool] = True

    n_coalitions: int = 300
    inner: int = INNER
    outer: int = OUTER
    fill: Filling | Sequence[float] = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    precision: ClassVar[str] = "full"

    def __post_init__(self) -> None:
        for name, least in (("n_coalitions", 2), ("inner", 1), ("outer", 1)):
            check_count(name, getattr(self, name), least)
        check_peer(self)

    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        return explain_each(self, detector, image, detections, self._map)

    def _map(self, scores: BoxScores) -> Tensor:
        number = torch.zeros(1, dtype=torch.long, device=scores.box.device)
        cut = random_partitions(
            scores.canvas.size, scores.box[None], number, self.seed, inner=self.inner, outer=self.outer
        )
        n = int(cut.counts[0])
        sets, weights = coalitions(n, self.n_coalitions, self.seed)
        ends = torch.tensor([[False] * n, [True] * n])
        found = scores.with_regions(torch.cat([ends, sets]), cut.labels[0])
        phi = shapley_kernel_fit(sets, weights, found[2:], float(found[0]), float(found[1]))
        return (phi.to(cut.areas) / cut.areas[0])[cut.labels[0]]


def coalitions(n: int, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Coalitions of n regions (m, n) bool, neither empty nor full, and their weights (m,) float64.

    All of them, weighed by the Shapley kernel, where there are at most ``most``; else ``most`` drawn by that weight,
    each followed by its complement, and weighed alike.
    """
    if n < 31 and 2**n - 2 <= most:
        numbers = torch.arange(1, 2**n - 1)
        sets = (numbers[:, None] >> torch.arange(n)) % 2 == 1
        weights = [(n - 1) / (math.comb(n, k) * k * (n - k)) for k in sets.sum(1).tolist()]
        return sets, torch.tensor(weights, dtype=torch.float64)
    dice = np.random.default_rng(seed)
    sizes = np.arange(1, n)
    chance = 1 / (sizes * (n - sizes))
    drawn = dice.choice(sizes, size=(most + 1) // 2, p=chance / chance.sum())
    places = torch.from_numpy(dice.random((len(drawn), n)).argsort(1).argsort(1))
    half = places < torch.from_numpy(drawn)[:, None]
    sets = torch.stack([half, ~half], 1).flatten(0, 1)[:most]
    return sets, torch.ones(len(sets)).double()


def shapley_kernel_fit(sets: Tensor, weights: Tensor, scores: Tensor, empty: float, full: float) -> Tensor:
    """(n,) float64: the weighted least squares fit whose sum is ``full - empty``, of the smallest norm if many are.

    >>> sets, weights = coalitions(2, 9, 0)  # {0} scores 1, {1} nothing, both 3: (1 + 3) / 2 and (0 + 2) / 2
    >>> shapley_kernel_fit(sets, weights, torch.tensor([1.0, 0.0]), 0.0, 3.0).round(decimals=6)
    tensor([2., 1.], dtype=torch.float64)
    """
    n, total = sets.shape[1], full - empty
    if n == 1:
        return torch.tensor([total], dtype=torch.float64)
    # phi = total / n + a vector of sum 0: the constraint is out of the way, and no region is treated unlike another
    basis = torch.linalg.qr(torch.eye(n).double()[:, :-1] - 1 / n).Q
    root, shown = weights.sqrt(), sets.double()
    left = root[:, None] * (shown @ basis)
    right = root * (scores.double() - empty - shown.sum(1) * total / n)
    free = torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:, 0]
    return total / n + basis @ free
