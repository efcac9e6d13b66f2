"""Peers on detectors whose score is a known function of the pixels shown, so that their answer is known too."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.regions import random_partitions
from detxai.evaluate.contestants import PEERS, contestants
from detxai.evaluate.peers.greedy import patches
from detxai.evaluate.peers.kernel_shap import KernelSHAP, coalitions, shapley_kernel_fit
from detxai.evaluate.peers.phase_win import search
from detxai.methods import DRISE

LIGHT = 200
SIDE = 64
GREY = np.full((SIDE, SIDE, 3), LIGHT, np.uint8)
BOX = [4.0, 4.0, 60.0, 60.0]
FOUND = Detections([BOX], [0.9], [1])


def seeing(score: Callable[[np.ndarray], float]) -> Detector:
    """A detector whose box always lies right, and whose score is a function of how much of each pixel is shown."""

    def detect(images: Any) -> list[Detections]:
        shown = [np.asarray(image, dtype=np.float64)[..., 0] / LIGHT for image in images]
        return [Detections([BOX], [score(of)], [1]) for of in shown]

    return detxai.wrap(detect)


def weights(n: int, seed: int = 0) -> np.ndarray:
    """(n,) positive and different, with sum 0.9."""
    drawn = 1 + np.random.default_rng(seed).permutation(n)
    return np.asarray(0.9 * drawn / drawn.sum())


def additive(labels: np.ndarray, worth: np.ndarray) -> Detector:
    """The score is the sum of what the patches are worth, each by the share of it that is shown."""
    sizes = np.bincount(labels.ravel())
    return seeing(lambda shown: float((np.bincount(labels.ravel(), shown.ravel()) / sizes) @ worth))


# --- greedy search -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["greedy_insertion", "greedy_deletion"])
def test_greedy_takes_patches_by_what_they_add(name: str) -> None:
    """Worth is additive, so the best next patch is the one worth most: values are the scores along that order."""
    labels, searched = patches((SIDE, SIDE), torch.tensor(BOX))
    assert searched.tolist() == list(range(64))  # the box covers more than a fifth: 8 x 8 patches, all of them
    worth = weights(64)
    (found,) = PEERS[name](max_passes=5000)(additive(labels.numpy(), worth), GREY, FOUND)
    order = np.argsort(-worth)
    before = np.concatenate([[0], np.cumsum(worth[order])[:-1]])
    expected = np.empty(64)
    expected[order] = 1 - before if name == "greedy_insertion" else worth.sum() - before
    assert found.values == pytest.approx(expected[labels.numpy()], abs=1e-5)
    assert found.cost.forward_passes == 64 * 65 // 2 + 1


@pytest.mark.parametrize("name", ["greedy_insertion", "greedy_deletion"])
def test_where_passes_run_out_the_rest_comes_by_its_last_scores(name: str) -> None:
    labels, _ = patches((SIDE, SIDE), torch.tensor(BOX))
    worth = weights(64, seed=1)
    (found,) = PEERS[name](max_passes=200)(additive(labels.numpy(), worth), GREY, FOUND)
    of_patch = found.values[4::8, 4::8].ravel()
    assert np.argsort(-of_patch).tolist() == np.argsort(-worth).tolist()
    assert found.cost.forward_passes <= 200


def test_small_boxes_have_finer_patches_and_a_window() -> None:
    for box, along in (([30.0, 30.0, 34.0, 34.0], 24), ([20.0, 20.0, 40.0, 40.0], 16), ([0.0, 0.0, 64.0, 64.0], 8)):
        labels, searched = patches((240, 240), torch.tensor(box) * 3.75)
        assert int(labels.max()) + 1 == along**2
        side = 240 // along
        middle = [(side * (n // along) + side / 2, side * (n % along) + side / 2) for n in searched.tolist()]
        low, high = box[0] * 3.75 - 240 / 7, box[2] * 3.75 + 240 / 7
        inside = [n for n in range(along) if low <= side * n + side / 2 <= high]
        assert len(middle) == len(inside) ** 2


def test_deletion_finds_what_insertion_cannot() -> None:
    """A score that needs two patches at once: no single one raises it, and either one's loss is the end."""
    labels, _ = patches((SIDE, SIDE), torch.tensor(BOX))
    both = (labels == 10).numpy(), (labels == 53).numpy()
    detector = seeing(lambda shown: 0.8 * float(min(shown[part].mean() for part in both)))
    (found,) = PEERS["greedy_deletion"](max_passes=5000)(detector, GREY, FOUND)
    assert found.values.max() == pytest.approx(0.8)
    assert found.values[both[0]].min() == pytest.approx(0.8)  # hidden first, after which nothing is left to lose
    assert found.values.sum() == pytest.approx(0.8 * 64, rel=1e-5)


# --- PhaseWin ----------------------------------------------------------------------------------------------------


def test_phases_find_the_order_of_an_additive_worth_in_fewer_passes() -> None:
    worth, asked = torch.from_numpy(weights(40)), []

    def value(sets: Tensor) -> Tensor:
        asked.append(len(sets))
        return 2 * (sets.double() @ worth) + 1 - worth.sum()  # f(shown) + 1 - f(hidden)

    assert search(value, 40) == worth.argsort(descending=True).tolist()
    assert sum(asked) < 40 * 41 / 2


def test_phases_take_every_region_once_whatever_the_score() -> None:
    dice = torch.Generator().manual_seed(0)
    order = search(lambda sets: torch.rand(len(sets), generator=dice, dtype=torch.float64), 25)
    assert sorted(order) == list(range(25))
    assert sorted(search(lambda sets: torch.zeros(len(sets)).double(), 7)) == list(range(7))


def test_phase_win_puts_first_what_decides() -> None:
    pytest.importorskip("skimage")
    rows, columns = np.mgrid[:SIDE, :SIDE]
    photo = np.stack([100 + 2 * rows, 100 + 2 * columns, 180 + rows - columns], -1).astype(np.uint8)
    clean = photo[40:48, 16:24].astype(np.float64).mean()

    def detect(images: Any) -> list[Detections]:
        return [
            Detections([BOX], [0.9 * float(np.asarray(image)[40:48, 16:24].mean()) / clean], [1]) for image in images
        ]

    (found,) = PEERS["phase_win"](n_regions=30)(detxai.wrap(detect), photo, FOUND)
    assert found.values.max() == 1
    assert found.values[40:48, 16:24].mean() > 0.85
    assert found.values.mean() == pytest.approx(0.5, abs=0.1)


# --- AISE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "column"), [(20, 44), (50, 12)])
def test_aise_moves_its_spotlight_to_what_decides(row: int, column: int) -> None:
    detector = seeing(lambda shown: 0.9 * float(shown[row, column]))
    (found,) = PEERS["aise"]()(detector, GREY, FOUND)
    peak = np.unravel_index(found.values.argmax(), found.values.shape)
    assert np.hypot(peak[0] - row, peak[1] - column) <= 6
    assert 2 < found.values.max() <= 3  # three widths, each over its maximum
    assert 150 <= found.cost.forward_passes < 240


def test_aise_is_the_sum_of_its_views_by_their_scores() -> None:
    """One width; the views are read off what the detector was shown."""
    views: list[np.ndarray] = []

    def score(shown: np.ndarray) -> float:
        views.append(shown)
        return 0.9 * float(shown[30, 30])

    (found,) = PEERS["aise"](divisors=[2.0], n_evaluations=20)(seeing(score), GREY, FOUND)
    assert len(views) == found.cost.forward_passes
    total = sum(view * 0.9 * view[30, 30] for view in views)
    assert found.values == pytest.approx(total / total.max(), abs=0.02)  # views are of whole grey levels


# --- kernel SHAP -------------------------------------------------------------------------------------------------


def shapley_by_definition(value: Callable[[frozenset[int]], float], n: int) -> list[float]:
    """Of every region the mean gain over all coalitions of the others, weighed as by all orders."""
    values = []
    for region in range(n):
        others = [other for other in range(n) if other != region]
        total = 0.0
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for chosen in combinations(others, size):
                total += weight * (value(frozenset(chosen) | {region}) - value(frozenset(chosen)))
        values.append(total)
    return values


@pytest.mark.parametrize("n", [2, 3, 6, 8])
def test_every_coalition_gives_the_shapley_values(n: int) -> None:
    table = np.random.default_rng(n).random(2**n)
    sets, weight = coalitions(n, 2**n, 0)
    assert len(sets) == 2**n - 2
    numbers = (sets.long() << torch.arange(n)).sum(1)
    phi = shapley_kernel_fit(sets, weight, torch.from_numpy(table)[numbers], table[0], table[-1])
    expected = shapley_by_definition(lambda chosen: float(table[sum(1 << region for region in chosen)]), n)
    assert phi.tolist() == pytest.approx(expected, abs=1e-9)


def test_few_coalitions_are_enough_for_an_additive_score() -> None:
    worth = torch.from_numpy(weights(12))
    sets, weight = coalitions(12, 40, 0)
    assert len(sets) == 40
    assert torch.equal(sets[::2], ~sets[1::2])
    assert bool(sets.any(1).all())
    assert not bool(sets.all(1).any())
    phi = shapley_kernel_fit(sets, weight, 0.05 + sets.double() @ worth, 0.05, 0.05 + float(worth.sum()))
    torch.testing.assert_close(phi, worth)


def test_sizes_are_drawn_as_the_kernel_weighs_them() -> None:
    sizes = coalitions(16, 20_000, 1)[0].sum(1).numpy()
    chance = np.array([1 / (k * (16 - k)) for k in range(1, 16)])
    drawn = np.bincount(sizes, minlength=16)[1:16] / 20_000
    assert drawn == pytest.approx(chance / chance.sum(), abs=0.015)


def test_the_map_of_kernel_shap_is_shapley_values_over_areas() -> None:
    """A score with interactions, on four regions or so: every coalition is asked."""
    cut = random_partitions((SIDE, SIDE), torch.tensor([BOX]), torch.zeros(1).long(), 0, inner=1, outer=1)
    labels, n = cut.labels[0].numpy(), int(cut.counts[0])
    assert 3 <= n <= 8
    worth = weights(n)

    def value(chosen: frozenset[int]) -> float:
        return float(0.9 * np.prod([1.0 if region in chosen else 1 - worth[region] for region in range(n)]))

    detector = seeing(lambda shown: value(frozenset(np.unique(labels[shown > 0.5]).tolist())))
    (found,) = KernelSHAP(inner=1, outer=1)(detector, GREY, FOUND)
    expected = np.array(shapley_by_definition(value, n)) / np.bincount(labels.ravel())
    assert found.values == pytest.approx(expected[labels], abs=1e-8)
    assert found.cost.forward_passes == 2**n
    assert found.values.sum() == pytest.approx(value(frozenset(range(n))) - value(frozenset()), abs=1e-5)


# --- D-RISE with several densities, and all of them --------------------------------------------------------------


def test_mixed_d_rise_is_the_mean_over_densities() -> None:
    detector = seeing(lambda shown: 0.9 * float(shown[20:30, 30:40].mean()))
    (found,) = PEERS["d_rise_mixed"](n_masks=101, densities=[0.2, 0.7], seed=3)(detector, GREY, FOUND)
    parts = [DRISE(n_masks=n, p=p, seed=seed, progress=False) for n, p, seed in ((51, 0.2, 3), (50, 0.7, 4))]
    maps = [part(detector, GREY, FOUND)[0] for part in parts]
    assert found.values == pytest.approx(np.mean([map_.values for map_ in maps], axis=0))
    assert found.cost.forward_passes == sum(map_.cost.forward_passes for map_ in maps)
    assert found.method == "d_rise_mixed"


NEW = ["aise", "greedy_insertion", "greedy_deletion", "kernel_shap_paired", "d_rise_mixed"]


@pytest.mark.parametrize("name", NEW)
def test_peers_answer_for_each_box_of_a_network(name: str) -> None:
    """One map for each detection, the same again, and none for none."""
    cheap: dict[str, Any] = {
        "aise": {"n_evaluations": 3},
        "kernel_shap_paired": {"n_coalitions": 10},
        "d_rise_mixed": {"n_masks": 80},
    }
    method: Any = contestants([name], {name: cheap.get(name, {"max_passes": 30})})[name]
    detector = seeing(lambda shown: float(0.5 * shown[10:20].mean() + 0.4 * shown[:, 40:].mean()))
    two = Detections([BOX, [8.0, 0.0, 30.0, 30.0]], [0.9, 0.8], [1, 1])
    first, again = method(detector, GREY, two), method(detector, GREY, two)
    assert [one.values.shape for one in first] == [(SIDE, SIDE)] * 2
    assert all(np.array_equal(one.values, other.values) for one, other in zip(first, again))
    assert method(detector, GREY, two[[]]) == []


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("aise", {"n_evaluations": 0}, "n_evaluations must be a whole number from 1"),
        ("aise", {"divisors": []}, "divisors must be numbers above 0"),
        ("aise", {"margin": -1}, "margin must be a number from 0"),
        ("greedy_deletion", {"max_passes": 1}, "max_passes must be a whole number from 2"),
        ("greedy_insertion", {"fill": "grey"}, "fill must be one of"),
        ("d_rise_mixed", {"n_masks": 79}, "n_masks must be a whole number from 80"),
        ("kernel_shap_paired", {"inner": 0}, "inner must be a whole number from 1"),
        ("d_rise_mixed", {"densities": []}, "densities must hold at least one"),
        ("d_rise_mixed", {"densities": [1.5]}, "p must"),
    ],
)
def test_bad_settings_of_a_peer_are_named(name: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contestants([name], {name: settings})


def test_a_peer_hides_with_one_fill() -> None:
    with pytest.raises(ValueError, match="fill must be one of"):
        PEERS["greedy_insertion"](fill=["black", "mean"])
