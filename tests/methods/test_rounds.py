"""Methods that work in rounds show the map after each, and end where they are told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from black_boxes import WHITE, sees, share

import detxai
from detxai.explain import make_method
from detxai.progress import following, progress_bar

METHODS = {
    "pixel_evidence": {"max_passes": 500, "tolerance": 0.01, "fill": "black", "progress": False, "keep_partial": True},
    "region_shapley": {"max_passes": 500, "fill": "black", "progress": False, "keep_partial": True},
}


def explained(name: str, on_round: Callable[[list[detxai.Explanation]], object] | None) -> detxai.Explanation:
    detector = sees(share(20, 30, 8, 8))
    method: Any = make_method(name, **METHODS[name])
    (found,) = method(detector, WHITE, detector.detect(WHITE, 0.0), on_round=on_round)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_rounds_change_nothing_and_know_more_each_time(name: str) -> None:
    rounds: list[detxai.Explanation] = []
    found = explained(name, lambda so_far: rounds.extend(so_far))
    np.testing.assert_array_equal(found.values, explained(name, None).values)
    assert len(rounds) >= 3
    assert all(one.partial for one in rounds)
    assert not found.partial
    passes = [one.cost.forward_passes for one in [*rounds, found]]
    assert passes == sorted(passes)
    assert passes[0] < passes[-1]
    if name == "pixel_evidence":
        start = rounds.pop(0)
        assert start.detection is not None
        assert start.cost.forward_passes == 0, "nothing is asked of a black box before its start is handed on"
        assert start.values.sum() == pytest.approx(float(start.detection.scores[0]), rel=1e-3)
        parts = [one for one in rounds if one.details["n_draws"] == 0]
        assert len(parts) >= 3, "maps of the soft masks, while they are scored"
    agreement = [one.details["expected_correlation"] for one in rounds]
    assert agreement[0] <= agreement[-1]
    whole = found.details["clean_score"] - np.mean(found.details["hidden_scores"])
    for one in rounds:  # every map shares out the same score, however little is known
        assert one.values.sum() == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_stopped_in_a_round_the_map_so_far_is_kept(name: str) -> None:
    rounds: list[detxai.Explanation] = []

    def stop(so_far: list[detxai.Explanation]) -> None:
        rounds.extend(so_far)
        if so_far[0].details.get("n_draws", 0) >= 2:
            raise KeyboardInterrupt

    found = explained(name, stop)
    assert found.partial
    np.testing.assert_array_equal(found.values, rounds[-1].values)


def test_hidden_bars_are_followed_and_stop_the_work_as_ctrl_c_does() -> None:
    detector = sees(share(20, 30, 8, 8))
    steps: list[tuple[int, int]] = []

    def on_step(done: int, total: int, doing: str) -> None:
        steps.append((done, total))
        if done >= 100:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"grid": (4, 5), "batch_size": 8, "progress": False, "keep_partial": True}
    with following(on_step):
        (found,) = detxai.explain(detector, WHITE, "d_rise", detector.detect(WHITE, 0.0), n_masks=1000, **settings)
    assert found.partial
    assert found.details["n_masks"] == steps[-1][0] == 104
    assert {total for _, total in steps} == {1000}
    with progress_bar(False, 2, "after", "step") as bar:
        bar.update(2)
    assert len(steps) == 13
