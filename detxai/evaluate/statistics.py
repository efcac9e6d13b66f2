"""Means with their uncertainty, paired differences and ranks, over the same detections for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 2000  # the ends of a 95 % interval then vary by a few hundredths of its width
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

    Source: Efron & Tibshirani, 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval); Field &
    Welsh, 2007, Bootstrapping clustered data (JRSS B 69), for drawing whole clusters.
    """

    place: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, images: Sequence[str], n: int = N_RESAMPLES, seed: int = 0) -> Resamples:
        """Draws for detections whose images have these names, one a detection."""
        _, place = np.unique(np.asarray(images, dtype=object).astype(str), return_inverse=True)
        n_images = int(place.max()) + 1 if len(place) else 0
        if n_images == 0:
            return cls(place, np.zeros((n, 0), dtype=np.int64))
        drawn = np.random.default_rng(seed).multinomial(n_images, np.full(n_images, 1 / n_images), size=n)
        return cls(place, drawn)

    def mean(self, values: npt.ArrayLike) -> Interval:
        """The mean of (D,) values, those that are NaN left out.

        >>> Resamples.of(["a", "b"]).mean([0.25, 0.25])
        Interval(mean=0.25, low=0.25, high=0.25, n=2)
        """
        values = np.asarray(values, dtype=np.float64)
        known = ~np.isnan(values)
        n = int(known.sum())
        if n == 0:
            return Interval(np.nan, np.nan, np.nan, 0)
        n_images = self.counts.shape[1]
        sums = np.bincount(self.place, np.where(known, values, 0), n_images)
        sizes = np.bincount(self.place, known, n_images)
        if (sizes > 0).sum() < 2:
            return Interval(float(values[known].mean()), np.nan, np.nan, n)
        total = self.counts @ sizes
        # a draw of nothing but images without a value says nothing
        means = (self.counts @ sums)[total > 0] / total[total > 0]
        low, high = np.quantile(means, [0.025, 0.975])
        return Interval(float(values[known].mean()), float(low), float(high), n)


@dataclass(frozen=True)
class Standing:
    """How one method stands at one quantity.

    Attributes:
        method: its name.
        interval: its mean, over the detections that every method has a value for.
        rank: 1 for the best mean; equal means share the mean of their ranks; NaN where no direction is better.
        behind: the best method's value less its own (or the other way round where lower is better), detection by
            detection; None for the best itself, and where no direction is better.
    """

    method: str
    interval: Interval
    rank: float
    behind: Interval | None


def standings(values: Mapping[str, Floats], better: str | None, resamples: Resamples) -> list[Standing]:
    """Every method at one quantity, the best first.

    Args:
        values: method -> (D,) its values, the same detections in the same order; NaN where there is none.
        better: ``"higher"``, ``"lower"``, or None where neither is better; the methods then come as given.
        resamples: of these detections.
    """
    missing = np.isnan(np.stack(list(values.values()))).any(0)
    paired = {method: np.where(missing, np.nan, of) for method, of in values.items()}
    intervals = {method: resamples.mean(of) for method, of in paired.items()}
    if better is None or missing.all():
        return [Standing(method, interval, np.nan, None) for method, interval in intervals.items()]
    sign = 1.0 if better == "higher" else -1.0
    ranks = ranked({method: sign * interval.mean for method, interval in intervals.items()})
    order = sorted(values, key=lambda method: ranks[method])
    best = paired[order[0]]
    return [
        Standing(
            method,
            intervals[method],
            ranks[method],
            None if place == 0 else resamples.mean(sign * (best - paired[method])),
        )
        for place, method in enumerate(order)
    ]


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
