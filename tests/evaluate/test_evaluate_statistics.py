"""Intervals, paired differences and ranks against loops that anybody can follow."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detxai.evaluate.results.statistics import Interval, Resamples, holm, ranked, standings


def slow_interval(images: list[str], values: list[float], resamples: Resamples) -> tuple[float, float, float]:
    """The interval by the book: lay out every draw, image by image, and take the mean of what lies there."""
    names = sorted(set(images))
    of_image = {name: [v for i, v in zip(images, values) if i == name and not math.isnan(v)] for name in names}
    means = []
    for draw in resamples.counts:
        laid_out = [v for name, times in zip(names, draw) for _ in range(times) for v in of_image[name]]
        if laid_out:
            means.append(sum(laid_out) / len(laid_out))
    means.sort()

    def percentile(share: float) -> float:
        place = share * (len(means) - 1)
        low = int(place)
        high = min(low + 1, len(means) - 1)
        return means[low] + (place - low) * (means[high] - means[low])

    known = [v for v in values if not math.isnan(v)]
    n = sum(bool(of) for of in of_image.values())
    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))
    return sum(known) / len(known), percentile(tail), percentile(1 - tail)


@pytest.mark.parametrize("seed", range(3))
def test_interval_equals_the_loop(seed: int) -> None:
    dice = random.Random(seed)
    images = [f"image {dice.randrange(5)}" for _ in range(17)]
    values = [dice.gauss(0, 1) if dice.random() < 0.8 else math.nan for _ in images]
    resamples = Resamples.for_images(images, n=200, seed=seed)
    found = resamples.mean(values)
    assert (found.mean, found.low, found.high) == pytest.approx(slow_interval(images, values, resamples))
    assert found.n == sum(not math.isnan(v) for v in values)


def test_every_draw_takes_as_many_images_as_there_are_each_as_likely() -> None:
    counts = Resamples.for_images(["a", "a", "b", "c", "c", "c"], n=4000, seed=1).counts
    assert (counts.sum(1) == 3).all()
    assert counts.mean(0) == pytest.approx([1, 1, 1], abs=0.05)
    assert counts.var(0) == pytest.approx([2 / 3] * 3, abs=0.05)  # of a binomial: 3 draws of 1 in 3


def clusters(dice: np.random.Generator, n_images: int, skewed: bool) -> tuple[list[str], np.ndarray]:
    """One to four detections in each image, which share most of what they are; their mean is 0."""
    sizes = dice.integers(1, 5, n_images)
    shared = dice.exponential(1.0, n_images) - 1 if skewed else dice.normal(0, 1, n_images)
    images = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
    return images, np.repeat(shared, sizes) + dice.normal(0, 0.5, len(images))


@pytest.mark.parametrize(
    ("n_images", "skewed", "least"), [(10, False, 0.92), (20, False, 0.93), (20, True, 0.89), (60, True, 0.92)]
)
def test_an_interval_holds_the_truth_as_often_as_it_says(n_images: int, skewed: bool, least: float) -> None:
    """A thousand evaluations whose true mean is known. Exponential tails are the worst case, and cost a few percent."""
    dice = np.random.default_rng(n_images)
    held = 0
    for run in range(1000):
        images, values = clusters(dice, n_images, skewed)
        found = Resamples.for_images(images, n=500, seed=run).mean(values)
        held += found.low <= 0 <= found.high
    assert least <= held / 1000 <= 0.975


def test_a_p_value_is_below_a_level_as_often_as_that_says() -> None:
    dice = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        images, values = clusters(dice, 20, False)
        found.append(Resamples.for_images(images, n=1).p_value(values))
    assert 0.035 <= np.mean(np.array(found) <= 0.05) <= 0.07


def test_a_p_value_of_one_detection_an_image_is_students() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, 25)
    found = Resamples.for_images([str(i) for i in range(25)]).p_value(values)
    assert found == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue))


def test_holm_by_hand() -> None:
    """The smallest of four times 4, the next times 3, ...; never below the one before; NaN is no test."""
    assert holm([0.01, 0.04, math.nan, 0.03, 0.5])[:2] == pytest.approx([0.04, 0.09])
    assert holm([0.01, 0.04, math.nan, 0.03, 0.5])[3:] == pytest.approx([0.09, 0.5])
    assert math.isnan(holm([0.01, math.nan])[1])


def test_equal_methods_are_seldom_told_apart_however_many_there_are() -> None:
    """Of 200 evaluations of eight methods that are equally good, at most a few call any behind the best."""
    dice = np.random.default_rng(3)
    images = [str(i) for i in range(30)]
    resamples = Resamples.for_images(images, n=10)
    false = 0
    for _ in range(200):
        values = {str(m): dice.normal(0, 1, 30) for m in range(8)}
        false += any(standing.differs for standing in standings(values, "higher", resamples))
    assert false <= 20  # 5 % of 200, and two standard errors more


@pytest.mark.parametrize(("n_images", "differs"), [(19, False), (20, True)])
def test_no_difference_is_called_real_below_twenty_images(n_images: int, differs: bool) -> None:
    values = {"a": np.linspace(1, 2, n_images), "b": np.linspace(0, 1.1, n_images)}
    best, second = standings(values, "higher", Resamples.for_images([str(i) for i in range(n_images)]))
    assert best.method == "a"
    assert not best.differs
    assert second.differs == differs


def test_detections_of_one_image_are_no_independent_evidence() -> None:
    values = [float(v) for v in (0, 1, 0, 1, 1, 0) for _ in range(10)]
    alone = Resamples.for_images([str(i) for i in range(60)]).mean(values)
    together = Resamples.for_images([str(i // 10) for i in range(60)]).mean(values)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_no_values_have_no_interval() -> None:
    found = Resamples.for_images(["a", "b"]).mean([math.nan, math.nan])
    assert math.isnan(found.mean)
    assert found.n == 0
    assert not found.excludes_zero
    assert Resamples.for_images([]).mean([]).n == 0


def test_one_image_says_nothing_of_others() -> None:
    for images, values in ((["a", "a"], [0.2, 0.6]), (["a", "a", "b"], [0.2, 0.6, math.nan])):
        found = Resamples.for_images(images).mean(values)
        assert (found.mean, found.n) == (pytest.approx(0.4), 2)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert not found.excludes_zero


def test_standings_by_hand() -> None:
    values = {"a": np.array([0.1, 0.3]), "b": np.array([0.6, 0.8]), "c": np.array([0.2, 0.2])}
    best, *others = standings(values, "higher", Resamples.for_images(["x", "y"]))
    assert (best.method, best.rank, best.behind) == ("b", 1, None)
    assert best.interval.mean == pytest.approx(0.7)
    assert [(s.method, s.rank) for s in others] == [("a", 2.5), ("c", 2.5)]
    assert others[0].behind is not None
    assert (others[0].behind.mean, others[0].behind.low) == pytest.approx((0.5, 0.5))  # 0.5 for each: no doubt
    assert others[0].behind.excludes_zero
    lower = standings(values, "lower", Resamples.for_images(["x", "y"]))
    assert [s.method for s in lower] == ["a", "c", "b"]
    assert lower[-1].behind is not None
    assert lower[-1].behind.mean == pytest.approx(0.5)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    dice = np.random.default_rng(0)
    hard = dice.normal(0, 1, 60)  # how hard each detection is, the same for both
    values = {"better": hard + 0.2, "worse": hard + dice.normal(0, 0.1, 60)}
    best, second = standings(values, "higher", Resamples.for_images([str(i) for i in range(60)]))
    assert best.method == "better"
    assert second.behind is not None
    assert best.interval.low < second.interval.high
    assert second.behind.excludes_zero


def test_a_detection_that_one_method_has_no_value_for_counts_for_none() -> None:
    values = {"a": np.array([1.0, 0.0, 0.0]), "b": np.array([math.nan, 0.5, 0.5])}
    best, second = standings(values, "higher", Resamples.for_images(["x", "y", "z"]))
    assert (best.method, second.interval) == ("b", Interval(0.0, 0.0, 0.0, n=2))


def test_where_no_way_is_better_there_is_no_rank() -> None:
    values = {"b": np.array([1.0]), "a": np.array([2.0])}
    assert [s.method for s in standings(values, None, Resamples.for_images(["x"]))] == ["b", "a"]
    assert all(math.isnan(s.rank) and s.behind is None for s in standings(values, None, Resamples.for_images(["x"])))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8))
def test_ranks_add_up(goodness: list[float]) -> None:
    ranks = ranked({str(i): value for i, value in enumerate(goodness)})
    n = len(goodness)
    assert sum(ranks.values()) == pytest.approx(n * (n + 1) / 2)
    for i, first in enumerate(goodness):
        for j, second in enumerate(goodness):
            assert (ranks[str(i)] < ranks[str(j)]) == (first > second)
