"""Intervals, paired differences and ranks against loops that anybody can follow."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detxai.evaluate.statistics import Interval, Resamples, ranked, standings


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
    return sum(known) / len(known), percentile(0.025), percentile(0.975)


@pytest.mark.parametrize("seed", range(3))
def test_interval_equals_the_loop(seed: int) -> None:
    dice = random.Random(seed)
    images = [f"image {dice.randrange(5)}" for _ in range(17)]
    values = [dice.gauss(0, 1) if dice.random() < 0.8 else math.nan for _ in images]
    resamples = Resamples.of(images, n=200, seed=seed)
    found = resamples.mean(values)
    assert (found.mean, found.low, found.high) == pytest.approx(slow_interval(images, values, resamples))
    assert found.n == sum(not math.isnan(v) for v in values)


def test_every_draw_takes_as_many_images_as_there_are_each_as_likely() -> None:
    counts = Resamples.of(["a", "a", "b", "c", "c", "c"], n=4000, seed=1).counts
    assert (counts.sum(1) == 3).all()
    assert counts.mean(0) == pytest.approx([1, 1, 1], abs=0.05)
    assert counts.var(0) == pytest.approx([2 / 3] * 3, abs=0.05)  # of a binomial: 3 draws of 1 in 3


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    dice = np.random.default_rng(0)
    images = [str(i) for i in range(40)]
    held = 0
    for run in range(200):
        found = Resamples.of(images, n=400, seed=run).mean(dice.normal(3.0, 1.0, 40))
        held += found.low <= 3.0 <= found.high
    assert 175 <= held <= 199  # 95 % of 200 is 190


def test_detections_of_one_image_are_no_independent_evidence() -> None:
    values = [float(v) for v in (0, 1, 0, 1, 1, 0) for _ in range(10)]
    alone = Resamples.of([str(i) for i in range(60)]).mean(values)
    together = Resamples.of([str(i // 10) for i in range(60)]).mean(values)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_no_values_have_no_interval() -> None:
    found = Resamples.of(["a", "b"]).mean([math.nan, math.nan])
    assert math.isnan(found.mean)
    assert found.n == 0
    assert not found.excludes_zero
    assert Resamples.of([]).mean([]).n == 0


def test_one_image_says_nothing_of_others() -> None:
    for images, values in ((["a", "a"], [0.2, 0.6]), (["a", "a", "b"], [0.2, 0.6, math.nan])):
        found = Resamples.of(images).mean(values)
        assert (found.mean, found.n) == (pytest.approx(0.4), 2)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert not found.excludes_zero


def test_standings_by_hand() -> None:
    values = {"a": np.array([0.1, 0.3]), "b": np.array([0.6, 0.8]), "c": np.array([0.2, 0.2])}
    best, *others = standings(values, "higher", Resamples.of(["x", "y"]))
    assert (best.method, best.rank, best.behind) == ("b", 1, None)
    assert best.interval.mean == pytest.approx(0.7)
    assert [(s.method, s.rank) for s in others] == [("a", 2.5), ("c", 2.5)]
    assert others[0].behind is not None
    assert (others[0].behind.mean, others[0].behind.low) == pytest.approx((0.5, 0.5))  # 0.5 for each: no doubt
    assert others[0].behind.excludes_zero
    lower = standings(values, "lower", Resamples.of(["x", "y"]))
    assert [s.method for s in lower] == ["a", "c", "b"]
    assert lower[-1].behind is not None
    assert lower[-1].behind.mean == pytest.approx(0.5)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    dice = np.random.default_rng(0)
    hard = dice.normal(0, 1, 60)  # how hard each detection is, the same for both
    values = {"better": hard + 0.2, "worse": hard + dice.normal(0, 0.1, 60)}
    best, second = standings(values, "higher", Resamples.of([str(i) for i in range(60)]))
    assert best.method == "better"
    assert second.behind is not None
    assert best.interval.low < second.interval.high
    assert second.behind.excludes_zero


def test_a_detection_that_one_method_has_no_value_for_counts_for_none() -> None:
    values = {"a": np.array([1.0, 0.0, 0.0]), "b": np.array([math.nan, 0.5, 0.5])}
    best, second = standings(values, "higher", Resamples.of(["x", "y", "z"]))
    assert (best.method, second.interval) == ("b", Interval(0.0, 0.0, 0.0, n=2))


def test_where_no_way_is_better_there_is_no_rank() -> None:
    values = {"b": np.array([1.0]), "a": np.array([2.0])}
    assert [s.method for s in standings(values, None, Resamples.of(["x"]))] == ["b", "a"]
    assert all(math.isnan(s.rank) and s.behind is None for s in standings(values, None, Resamples.of(["x"])))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8))
def test_ranks_add_up(goodness: list[float]) -> None:
    ranks = ranked({str(i): value for i, value in enumerate(goodness)})
    n = len(goodness)
    assert sum(ranks.values()) == pytest.approx(n * (n + 1) / 2)
    for i, first in enumerate(goodness):
        for j, second in enumerate(goodness):
            assert (ranks[str(i)] < ranks[str(j)]) == (first > second)
