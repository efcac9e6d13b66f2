"""Region Shapley on detectors with a known answer, and its promises: sums, errors, budgets, seeds, batch sizes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from black_boxes import SIZE, WHITE, sees, share
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.paths import Paths, follow
from detxai.engine.masking.regions import random_partitions, split_regions


def explain(detector: Detector, **settings: object) -> list[detxai.Explanation]:
    found = detector.detect(WHITE, 0.0)
    return detxai.RegionShapley(**{"fill": "black", "progress": False, **settings})(detector, WHITE, found)  # type: ignore[arg-type]


def test_a_score_that_is_a_share_of_a_patch_lies_on_the_patch() -> None:
    (found,) = explain(sees(share(20, 30, 8, 8)), max_passes=600, tolerance=0.0)
    assert float(found.values.sum(dtype=np.float64)) == pytest.approx(1, abs=1e-5)
    peak = np.unravel_index(found.values.argmax(), SIZE)
    assert 20 <= peak[0] < 28
    assert 30 <= peak[1] < 38
    assert found.values[:8].max() == 0  # further away than any region that meets the patch
    near = found.values[12:36, 22:46].sum(dtype=np.float64)
    assert near > 0.9  # the patch and a region's width around it


def test_the_sum_is_what_showing_the_image_adds() -> None:
    model = small_faster_rcnn(width=8)
    detector, image = detxai.wrap(model), photo()
    detections = detector.detect(image, 0.0)[:3]
    found = detxai.RegionShapley(max_passes=80, fill=("black", "blur"), batch_size=4)(detector, image, detections)
    for one in found:
        expected = one.details["clean_score"] - np.mean(one.details["hidden_scores"])
        assert float(one.values.sum(dtype=np.float64)) == pytest.approx(expected, abs=1e-4)
        assert one.standard_error is not None
        assert np.isfinite(one.standard_error).all()


@pytest.mark.parametrize("size", [1, 5, 64])
def test_one_map_for_every_batch_size(size: int) -> None:
    detector, image = detxai.wrap(small_faster_rcnn(width=8)), photo()
    detections = detector.detect(image, 0.0)[:2]
    maps = [
        np.stack([e.values for e in detxai.RegionShapley(max_passes=64, batch_size=b)(detector, image, detections)])
        for b in (size, 16)
    ]
    scale = np.abs(maps[1]).max()
    assert np.abs(maps[0] - maps[1]).max() <= 1e-4 * scale


def test_the_seed_decides() -> None:
    first, again, other = (explain(sees(share(20, 30, 8, 8)), seed=seed)[0].values for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("max_passes", [64, 200])
@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_the_budget_holds(max_passes: int, tolerance: float) -> None:
    rough = np.random.default_rng(0).random(SIZE)
    found = explain(
        sees(lambda b: float((b * rough).mean()), share(14, 22, 9, 9)), max_passes=max_passes, tolerance=tolerance
    )
    assert found[0].cost.forward_passes <= 2 * max_passes
    assert found[0].cost.forward_passes > max_passes


def test_hard_boxes_get_the_views_that_easy_ones_do_not_need() -> None:
    rough = np.random.default_rng(0).random(SIZE)

    def fickle(bright: npt.NDArray[np.float64]) -> float:  # depends on the company a pixel is in
        return float(0.5 + 0.5 * np.sin(40 * (bright * rough).mean()))

    easy, hard = explain(sees(share(0, 0, *SIZE), fickle), max_passes=250)
    assert hard.details["n_views"] > 1.5 * easy.details["n_views"]


def test_a_small_cause_far_from_the_box_is_found_where_regions_are_cut() -> None:
    tiny = sees(lambda b: float(b[6:10, 8:12].min()), box=(36, 24, 60, 44))  # 16 pixels of 3,072, needed together
    near = (slice(2, 14), slice(4, 16))
    whole, cut = (explain(tiny, max_passes=400, refine=refine)[0].values for refine in (0, 6))
    peak = np.unravel_index(cut.argmax(), SIZE)
    assert 3 <= peak[0] < 13
    assert 5 <= peak[1] < 15
    assert cut[near].sum() > 1.2 * whole[near].sum()


def test_regions_of_the_usual_size_are_not_cut() -> None:
    """A few hundred views cannot tell their parts apart."""
    inside = sees(share(24, 40, 3, 3))
    whole, cut = (explain(inside, max_passes=200, refine=refine)[0].values for refine in (0, 6))
    assert np.array_equal(whole, cut)


def test_error_bars_cover() -> None:
    """Of the pixels of 200 maps of 12 draws each, 90 to 99 % lie within 1.96 standard errors of the expected map."""
    size, n_seeds, n_draws = (12, 16), 200, 12
    weight = torch.rand(size, generator=torch.Generator().manual_seed(0))

    def score(paths: Paths, path: Tensor, shown: Tensor) -> Tensor:
        return (paths.masks(path, shown) * weight).mean((1, 2)).mul(4).tanh()

    def densities(first: int, n: int) -> Tensor:
        boxes = torch.tensor([[3.0, 2, 13, 10]]).expand(n, -1)
        partitions = random_partitions(size, boxes, torch.arange(first, first + n), seed=1)
        nothing = torch.zeros(n, dtype=torch.long)
        paths = Paths.draw(partitions, torch.arange(first, first + n), nothing, nothing, seed=2)
        ends = (torch.zeros(2 * n), torch.full((2 * n,), float((4 * weight.mean()).tanh())))
        return follow(paths, score, *ends, torch.full((2 * n,), 0.02)).densities()

    truth = densities(10**6, 4000).mean(0)
    maps = densities(0, n_seeds * n_draws).unflatten(0, (n_seeds, n_draws))
    errors = maps.std(1) / n_draws**0.5
    covered = ((maps.mean(1) - truth).abs() <= 1.96 * errors).float().mean()
    assert 0.90 <= float(covered) <= 0.99


def test_partitions_are_theirs_alone_and_have_no_empty_region() -> None:
    boxes = torch.tensor([[20.0, 12, 52, 40], [0, 0, 64, 48], [30, 20, 31, 21], [60, 40, 64, 48]])
    whole = random_partitions(SIZE, boxes, torch.arange(4), seed=5)
    for i in range(4):
        alone = random_partitions(SIZE, boxes[i : i + 1], torch.tensor([i]), seed=5)
        assert torch.equal(alone.labels[0], whole.labels[i])
        n = int(whole.counts[i])
        assert whole.labels[i].unique().tolist() == list(range(n))
        assert int(whole.areas[i].sum()) == SIZE[0] * SIZE[1]
    assert 50 < int(whole.counts[0]) < 70


def test_regions_that_are_cut_stay_within_the_old_ones() -> None:
    partitions = random_partitions(SIZE, torch.tensor([[36.0, 24, 60, 44]]), torch.arange(1))
    peak = torch.zeros(1, *SIZE)
    peak[0, 5:15, 5:15] = 1
    cut = split_regions(partitions, peak, 8)
    pairs = torch.stack([partitions.labels[0].flatten(), cut.labels[0].flatten()], 1).unique(dim=0)
    assert len(pairs) == int(cut.counts[0]) > int(partitions.counts[0])  # each new region has one old one
    assert len(cut.labels[0, 5:15, 5:15].unique()) > len(partitions.labels[0, 5:15, 5:15].unique())


def test_ctrl_c_stops_unless_what_there_is_was_asked_for() -> None:
    calls = 0

    def score(bright: npt.NDArray[np.float64]) -> float:
        nonlocal calls
        calls += 1
        if calls > 150:
            raise KeyboardInterrupt
        return float(bright[20:28, 30:38].mean())

    detector = sees(score)
    with pytest.raises(KeyboardInterrupt):
        explain(detector, max_passes=300)
    calls = 0
    (found,) = explain(detector, max_passes=300, keep_partial=True)
    assert found.partial
    assert found.values.max() > 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_passes": 63}, "max_passes"),
        ({"max_passes": 64.5}, "max_passes"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"explore": -0.1}, "explore"),
        ({"refine": -1}, "refine"),
        ({"fill": "white"}, "fill"),
        ({"fill": []}, "fill"),
        ({"fill": [0.0, 2.0, 0.0]}, "fill"),
        ({"fill": ["black", "pink"]}, "fill"),
        ({"seed": 0.5}, "seed"),
        ({"target": 3}, "target"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "half"}, "precision"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        detxai.RegionShapley(**settings)  # type: ignore[arg-type]


def test_no_boxes_no_maps() -> None:
    assert detxai.RegionShapley()(sees(share(0, 0, 8, 8)), WHITE, Detections([], [], [])) == []


def test_a_score_that_nothing_changes_has_a_flat_map() -> None:
    (found,) = explain(sees(lambda _: 0.5))
    assert not found.values.any()
    assert found.details["expected_correlation"] == 0
