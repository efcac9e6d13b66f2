"""Paths: orders in which the regions of an image appear one after another, and the scores along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from detxai.engine.masking.regions import Partitions
from detxai.engine.masking.soft.masks import uniforms

ScoreCoalitions: TypeAlias = Callable[["Paths", Tensor, Tensor], Tensor]
"""From Q views, by their path (Q,) and how many of its regions are shown (Q,), to the scores (Q,)."""


@dataclass(frozen=True, eq=False)
class Paths:
    """P orders in which regions appear: two for each partition, one the reverse of the other.

    An order and its reverse are an antithetic pair: what comes early in one comes late in the other, so that showing a
    region to an empty image and hiding it from the whole one are sampled alike.

    Attributes:
        partitions: S = P / 2 of them; path p is of partition p // 2.
        place: (P, N) int64, how many regions are shown before each region; past a partition's own regions, N.
        targets: (P,) int64, which target's score is followed.
        fills: (P,) int64, which filling stands where a region is hidden.

    Source: Castro et al., 2009 (Computers & Operations Research 36), Shapley values by sampled orders; Mitchell et al.,
    2022 (JMLR 23), antithetic orders.
    """

    partitions: Partitions
    place: Tensor
    targets: Tensor
    fills: Tensor

    @classmethod
    def draw(cls, partitions: Partitions, numbers: Tensor, targets: Tensor, fills: Tensor, seed: int = 0) -> Paths:
        """A random order of each partition's regions, and its reverse.

        Args:
            partitions: S of them.
            numbers: (S,) int64; the order is a function of (seed, number) and the count of regions alone.
            targets, fills: (S,) int64, of each pair.
            seed: of the orders.
        """
        n = partitions.most_regions
        regions = torch.arange(n, device=numbers.device)
        drawn = uniforms(seed, numbers, regions).masked_fill(regions >= partitions.counts[:, None], torch.inf)
        return cls.from_orders(partitions, drawn.argsort(dim=1, stable=True), targets, fills)

    @classmethod
    def from_orders(cls, partitions: Partitions, orders: Tensor, targets: Tensor, fills: Tensor) -> Paths:
        """These orders (S, N) int64, region numbers first to last (what lies past a partition's count is ignored)."""
        n = orders.shape[1]
        forwards = torch.empty_like(orders).scatter_(1, orders, torch.arange(n, device=orders.device).expand_as(orders))
        backwards = partitions.counts[:, None] - 1 - forwards
        absent = torch.arange(n, device=orders.device) >= partitions.counts[:, None]
        place = torch.stack([forwards, backwards], 1).masked_fill(absent[:, None], n).flatten(0, 1)
        return cls(partitions, place, targets.repeat_interleave(2), fills.repeat_interleave(2))

    def __len__(self) -> int:
        return len(self.place)

    @property
    def counts(self) -> Tensor:
        """(P,) int64, how many regions each path shows in the end."""
        return self.partitions.counts.repeat_interleave(2)

    def masks(self, paths: Tensor, shown: Tensor) -> Tensor:
        """(Q, h, w) float32: 1 where the first ``shown`` (Q,) regions of the paths (Q,) are."""
        return (self.appears(paths) < shown[:, None, None]).float()

    def appears(self, paths: Tensor) -> Tensor:
        """(Q, h, w) int64: how many regions are shown before each pixel is."""
        labels = self.partitions.labels[paths // 2]
        return self.place[paths].gather(1, labels.flatten(1)).view_as(labels)

    @property
    def areas_shown(self) -> Tensor:
        """(P, N + 1) float64: the share of the image that is shown after k regions; 1 past a path's end."""
        areas = self.partitions.areas.repeat_interleave(2, 0)
        in_order = areas.new_zeros(len(areas), areas.shape[1] + 1).scatter_(1, self.place, areas)[:, :-1]
        shown = torch.cat([in_order.new_zeros(len(areas), 1), in_order], 1).double().cumsum(1)
        return shown / shown[:, -1:]


@dataclass(frozen=True, eq=False)
class PathScores:
    """The scores along paths.

    Attributes:
        paths: P of them.
        scores: (P, N + 1) float64: the score after k regions, estimated where it was not computed.
        n_views: (P,) int64, how many views each path took, its two ends left out.
    """

    paths: Paths
    scores: Tensor
    n_views: Tensor

    @property
    def gains(self) -> Tensor:
        """(P, N) float64: what each region added to the score when it appeared; 0 past a partition's own regions."""
        steps = torch.cat([self.scores.diff(dim=1), self.scores.new_zeros(len(self.scores), 1)], 1)
        return steps.gather(1, self.paths.place)

    def densities(self) -> Tensor:
        """(P / 2, h, w) float32: each pair's mean gain of a pixel's region, spread over the region's pixels."""
        partitions = self.paths.partitions
        gains = self.gains.unflatten(0, (-1, 2)).mean(1)
        density = (gains / partitions.areas.clamp(min=1)).float()
        return density.gather(1, partitions.labels.flatten(1)).view_as(partitions.labels)


def follow(
    paths: Paths,
    score: ScoreCoalitions,
    hidden: Tensor,
    whole: Tensor,
    tolerance: Tensor,
    *,
    explore: float = 0.0,
    seed: int = 0,
    max_views: int | None = None,
) -> PathScores:
    """The score along every path, computed only where it changes.

    The score is known at both ends. An interval whose ends differ by less than the tolerance is not refined: the
    change is spread over its regions by their area. Any other is scored in the middle, and becomes two. The middles of
    all intervals of all paths are one batch, so there are about log2(N) rounds.

    Scores are not monotone, so two opposite changes can cancel in an interval. With ``explore`` some flat intervals are
    refined anyway, by chance, and what is found in them weighs in proportion: then every gain is unbiased.

    Args:
        paths: P of them.
        score: scores a batch of views.
        hidden, whole: (P,) the scores with nothing and with everything shown.
        tolerance: (P,) in units of the score; 0 refines everything.
        explore: chance in [0, 1] that a flat interval is refined.
        seed: of that chance.
        max_views: for all paths; None: as many as it takes. Where they run out the largest changes come first.
    """
    left = torch.iinfo(torch.long).max if max_views is None else max_views
    n_paths, n = paths.place.shape
    rows, device = torch.arange(n_paths, device=paths.place.device), paths.place.device
    area = paths.areas_shown
    computed = torch.full((n_paths, n + 1), torch.nan, dtype=torch.float64, device=device)
    computed[:, 0] = hidden.double()
    computed[rows, paths.counts] = whole.double()
    estimated = computed.clone()
    n_views = torch.zeros(n_paths, dtype=torch.long, device=device)
    intervals = _Intervals(rows, torch.zeros_like(rows), paths.counts, torch.ones_like(computed[:, 0]))
    while True:
        intervals = intervals.to_refine(computed, tolerance.double(), explore, seed)
        if len(intervals) > left:
            intervals = intervals.select(intervals.change(computed).abs().argsort(descending=True)[:left])
        if not len(intervals):
            return PathScores(paths, _filled(estimated, area), n_views)
        left -= len(intervals)
        path, middle = intervals.path, intervals.middle
        computed[path, middle] = score(paths, path, middle).double()
        n_views.index_add_(0, path, torch.ones_like(path))
        share = intervals.interpolation_weight(area)
        surprise = computed[path, middle] - intervals.interpolated(computed, share)
        estimated[path, middle] = intervals.interpolated(estimated, share) + intervals.weight * surprise
        intervals = intervals.halves()


@dataclass(frozen=True, eq=False)
class _Intervals:
    """Parts of paths, with the score known at both ends of each.

    Attributes:
        path: (I,) int64, which path each is a part of.
        low, high: (I,) int64, how many regions are shown at its ends.
        weight: (I,) how much a change found inside counts, for the chance at which such intervals are refined.
    """

    path: Tensor
    low: Tensor
    high: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.path)

    @property
    def middle(self) -> Tensor:
        return (self.low + self.high) // 2

    def select(self, places: Tensor) -> _Intervals:
        return _Intervals(self.path[places], self.low[places], self.high[places], self.weight[places])

    def halves(self) -> _Intervals:
        """Each cut in the middle: first all lower halves, then all upper ones."""
        low, high = torch.cat([self.low, self.middle]), torch.cat([self.middle, self.high])
        return _Intervals(self.path.repeat(2), low, high, self.weight.repeat(2))

    def change(self, scores: Tensor) -> Tensor:
        """(I,) the difference of the scores (P, N + 1) at both ends."""
        return scores[self.path, self.high] - scores[self.path, self.low]

    def interpolation_weight(self, area: Tensor) -> Tensor:
        """(I,) which part of the area that appears in the interval is shown at its middle."""
        shown = area[self.path, self.middle] - area[self.path, self.low]
        return shown / (area[self.path, self.high] - area[self.path, self.low])

    def interpolated(self, scores: Tensor, weight: Tensor) -> Tensor:
        """(I,) the scores (P, N + 1) at the middle, if they changed in proportion to the area."""
        return torch.lerp(scores[self.path, self.low], scores[self.path, self.high], weight)

    def to_refine(self, scores: Tensor, tolerance: Tensor, explore: float, seed: int) -> _Intervals:
        """Those that change by the tolerance (P,) or more, and some others by chance; none of a single region."""
        flat = self.change(scores).abs() < tolerance[self.path]
        refined, weight = ~flat, self.weight
        if explore > 0:
            steps = torch.arange(scores.shape[1], device=scores.device)
            chance = uniforms(seed, self.path, steps).gather(1, self.middle[:, None])[:, 0]
            refined = refined | (chance < explore)
            weight = torch.where(flat, weight / explore, weight)
        places = (refined & (self.high - self.low > 1)).nonzero()[:, 0]
        return replace(self, weight=weight).select(places)


def _filled(scores: Tensor, area: Tensor) -> Tensor:
    """Unknown scores (NaN) between known ones, in proportion to the area shown; past a path's end, the last one."""
    known = ~scores.isnan()
    steps = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    before = torch.where(known, steps, 0).cummax(1).values
    after = torch.where(known, steps, scores.shape[1]).flip(1).cummin(1).values.flip(1)
    after = torch.where(after < scores.shape[1], after, before)
    first, last = area.gather(1, before), area.gather(1, after)
    share = torch.where(last > first, (area - first) / (last - first).clamp(min=1e-12), 0)
    return torch.lerp(scores.gather(1, before), scores.gather(1, after), share)
