"""Means with their uncertainty, paired differences and ranks, over the same detections for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtr, stdtrit

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 2000  # the ends of a 95 % interval then vary by a few hundredths of its width
FEWEST_IMAGES = 20  # below it no difference is called real: neither the bootstrap nor a t-test is to be trusted
LEVEL = 0.05  # of the family of all pairs of methods at one quantity
SMALL, LARGE = 32**2, 96**2  # square pixels: COCO's bounds
SURE, UNSURE = 0.75, 0.5


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` detections and its 95 % bootstrap interval.

    NaN where there are no detections; the ends are NaN where all are of one image, which says nothing of others.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether a mean of 0 lies outside the interval; False where there is none."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Resamples:
    """One set of bootstrap draws, used for every method and quantity: that makes their comparison paired.

    Whole images are drawn, with replacement, each with all its detections: detections of one image share its light,
    its clutter and often its class, so drawing them one by one would promise too narrow an interval.

    Attributes:
        place: (D,) which image each detection lies in, 0 to I - 1.
        counts: (R, I) how often each draw took each image.

    A percentile interval of n images is too narrow by about a factor of sqrt((n - 1) / n) and by what a normal
    quantile falls short of Student's; the percentiles are taken further out by as much.

    Source: Efron & Tibshirani, 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval); Hesterberg,
    2015, What Teachers Should Know About the Bootstrap (The American Statistician 69), its expanded percentiles; Field
    & Welsh, 2007, Bootstrapping clustered data (JRSS B 69), for drawing whole clusters.
    """

    place: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def for_images(cls, images: Sequence[str], n: int = N_RESAMPLES, seed: int = 0) -> Resamples:
        """Draws for detections whose images have these names, one a detection."""
        _, place = np.unique(np.asarray(images, dtype=object).astype(str), return_inverse=True)
        n_images = int(place.max()) + 1 if len(place) else 0
        if n_images == 0:
            return cls(place, np.zeros((n, 0), dtype=np.int64))
        drawn = np.random.default_rng(seed).multinomial(n_images, np.full(n_images, 1 / n_images), size=n)
        return cls(place, drawn)

    def mean(self, values: npt.ArrayLike) -> Interval:
        """The mean of (D,) values, those that are NaN left out.

        >>> Resamples.for_images(["a", "b"]).mean([0.25, 0.25])
        Interval(mean=0.25, low=0.25, high=0.25, n=2)
        """
        sums, sizes = self._by_image(values)
        n, n_images = int(sizes.sum()), int((sizes > 0).sum())
        if n == 0:
            return Interval(np.nan, np.nan, np.nan, 0)
        mean = float(sums.sum() / n)
        if n_images < 2:
            return Interval(mean, np.nan, np.nan, n)
        total = self.counts @ sizes
        # a draw of nothing but images without a value says nothing
        means = (self.counts @ sums)[total > 0] / total[total > 0]
        tail = tail_of(n_images)
        low, high = np.quantile(means, [tail, 1 - tail])
        return Interval(mean, float(low), float(high), n)

    def p_value(self, values: npt.ArrayLike) -> float:
        """How likely a mean of (D,) values as far from 0 would be if it were 0; NaN with fewer than two images.

        A t-test of the mean whose standard error is that of whole images; it has no finest step, as a share of
        bootstrap draws has, which would leave nothing significant among many methods.

        Source: Cochran, 1977, Sampling Techniques, section 2.11 (the ratio of two sums over clusters).

        >>> p = Resamples.for_images(["a", "b", "c"]).p_value([1.0, 2.0, 3.0])  # t = 2 sqrt(3), 2 degrees of freedom
        >>> round(p, 4)
        0.0742
        """
        sums, sizes = self._by_image(values)
        n_images = int((sizes > 0).sum())
        if n_images < 2:
            return np.nan
        mean = sums.sum() / sizes.sum()
        off = sums - mean * sizes
        error = np.sqrt(n_images / (n_images - 1) * (off @ off)) / sizes.sum()
        if error <= 1e-12 * abs(mean) or error == 0:
            return float(mean == 0)
        return float(2 * stdtr(n_images - 1, -abs(mean) / error))

    def n_images(self, values: npt.ArrayLike) -> int:
        """In how many images there is any of (D,) values that is not NaN."""
        return int((self._by_image(values)[1] > 0).sum())

    def _by_image(self, values: npt.ArrayLike) -> tuple[Floats, Floats]:
        """(I,) the sum and the number of the known values of each image."""
        values = np.asarray(values, dtype=np.float64)
        known = ~np.isnan(values)
        n_images = self.counts.shape[1]
        sums = np.bincount(self.place, np.where(known, values, 0), n_images)
        return sums.astype(np.float64), np.bincount(self.place, known, n_images).astype(np.float64)


def tail_of(n_images: int) -> float:
    """The share of bootstrap means to leave out at either end of a 95 % interval, of images drawn with replacement.

    >>> round(tail_of(20), 4), round(tail_of(1000), 4)
    (0.0159, 0.0248)
    """
    return float(ndtr(np.sqrt(n_images / (n_images - 1)) * stdtrit(n_images - 1, 0.025)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of which any at most alpha is a discovery, with a chance of at most alpha that any of them is false.

    NaN stays NaN and counts for nothing.

    Source: Holm, 1979, A simple sequentially rejective multiple test procedure (Scandinavian Journal of Statistics 6).

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = [place for place in p.argsort(kind="stable") if not np.isnan(p[place])]
    corrected, highest = p.copy(), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[place]))
        corrected[place] = highest
    return [float(value) for value in corrected]


@dataclass(frozen=True)
class Standing:
    """How one method stands at one quantity.

    Attributes:
        method: its name.
        interval: its mean, over the detections that every method has a value for.
        rank: 1 for the best mean; equal means share the mean of their ranks; NaN where no direction is better.
        behind: the best method's value less its own (or the other way round where lower is better), detection by
            detection; None for the best itself, and where no direction is better.
        p_value: of that difference, by Holm's correction over all pairs of methods, since the best is known only from
            the data; NaN where there is none, or there are fewer than 20 images.
    """

    method: str
    interval: Interval
    rank: float
    behind: Interval | None
    p_value: float = np.nan

    @property
    def differs(self) -> bool:
        """Whether the best is better than this one, beyond chance."""
        return self.p_value <= LEVEL


def standings(values: Mapping[str, Floats], better: str | None, resamples: Resamples) -> list[Standing]:
    """Every method at one quantity, the best first.

    Args:
        values: method -> (D,) its values, the same detections in the same order; NaN where there is none.
        better: ``"higher"``, ``"lower"``, or None where neither is better; the methods then come as given.
        resamples: of these detections.
    """
    missing = np.isnan(np.stack(list(values.values()))).any(0)
    paired = {method: np.where(missing, np.nan, one) for method, one in values.items()}
    intervals = {method: resamples.mean(one) for method, one in paired.items()}
    if better is None or missing.all():
        return [Standing(method, interval, np.nan, None) for method, interval in intervals.items()]
    sign = 1.0 if better == "higher" else -1.0
    ranks = ranked({method: sign * interval.mean for method, interval in intervals.items()})
    order = sorted(values, key=lambda method: ranks[method])
    best = paired[order[0]]
    p_values = _p_values(paired, resamples)
    return [
        Standing(
            method,
            intervals[method],
            ranks[method],
            None if place == 0 else resamples.mean(sign * (best - paired[method])),
            p_values.get(frozenset((order[0], method)), np.nan),
        )
        for place, method in enumerate(order)
    ]


def _p_values(paired: Mapping[str, Floats], resamples: Resamples) -> dict[frozenset[str], float]:
    """Of the difference of each pair of methods, corrected for their number; none where there are too few images."""
    if resamples.n_images(next(iter(paired.values()))) < FEWEST_IMAGES:
        return {}
    pairs = list(combinations(paired, 2))
    found = holm([resamples.p_value(paired[one] - paired[other]) for one, other in pairs])
    return {frozenset(pair): p for pair, p in zip(pairs, found, strict=True)}


def ranked(goodness: Mapping[str, float]) -> dict[str, float]:
    """Ranks from 1 for the highest; equal ones share the mean of their ranks.

    >>> ranked({"a": 0.5, "b": 0.9, "c": 0.5})
    {'a': 2.5, 'b': 1.0, 'c': 2.5}
    """
    values = list(goodness.values())
    return {
        name: 1 + sum(other > value for other in values) + (values.count(value) - 1) / 2
        for name, value in goodness.items()
    }


def size_stratum(box: Sequence[float]) -> str:
    """COCO's ``small`` (below 32 x 32 pixels), ``medium`` and ``large`` (96 x 96 and above), by the box's area.

    >>> size_stratum([0, 0, 31, 33]), size_stratum([0, 0, 32, 32]), size_stratum([0, 0, 96, 96])
    ('small', 'medium', 'large')
    """
    area = (box[2] - box[0]) * (box[3] - box[1])
    return "small" if area < SMALL else "medium" if area < LARGE else "large"


def score_stratum(score: float) -> str:
    """``unsure`` (below 0.5), ``likely`` or ``sure`` (0.75 and above): faithfulness measures grow with the score.

    >>> score_stratum(0.3), score_stratum(0.5), score_stratum(0.75)
    ('unsure', 'likely', 'sure')
    """
    return "unsure" if score < UNSURE else "likely" if score < SURE else "sure"
