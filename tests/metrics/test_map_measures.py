"""Measures of the map alone, against slow loops written from the papers, numbers found by hand, and their limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cases import noise, small_case, smooth
from torch import Tensor

from detxai.engine.rank_correlation import doubled_ranks, rank_correlation
from detxai.metrics import (
    CausesFound,
    Compactness,
    EnergyPointingGame,
    EvidenceAUC,
    EvidenceMass,
    Leakage,
    Objects,
    PointingGame,
    Sparseness,
    VisualAccuracy,
)
from detxai.metrics.compactness import compactness
from detxai.metrics.energy import energy_share
from detxai.metrics.inputs.maps import box_masks
from detxai.metrics.inputs.roc_area import roc_area
from detxai.metrics.leakage import leakage, own_and_other
from detxai.metrics.planted_evidence.causes_found import cause_areas
from detxai.metrics.pointing_game import pointing_hits
from detxai.metrics.sparseness import gini
from detxai.metrics.visual_accuracy import THRESHOLDS, thresholded_iou

BY_HAND = torch.tensor([[[0.0, 1.0, 0.0, -2.0], [2.0, 8.0, 4.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, -7.0]]])
HAND_BOX = [0.0, 0.0, 2.0, 2.0]  # the four pixels 0 1 / 2 8


def pixels(map_: Tensor) -> Iterator[tuple[int, int, float]]:
    """(row, column, what speaks for the box)."""
    for y, row in enumerate(map_.tolist()):
        for x, value in enumerate(row):
            yield y, x, max(value, 0.0)


def slow_pointing(map_: Tensor, mask: Tensor) -> float:
    peak = max(value for _, _, value in pixels(map_))
    if peak == 0 or len(set(map_.flatten().tolist())) == 1:
        return 0.0
    hits = [bool(mask[y, x]) for y, x, value in pixels(map_) if value == peak]
    return sum(hits) / len(hits)


def slow_energy(map_: Tensor, mask: Tensor) -> float:
    total = sum(value for _, _, value in pixels(map_))
    return sum(value for y, x, value in pixels(map_) if mask[y, x]) / total if total else 0.0


def slow_compactness(map_: Tensor, box: list[float]) -> float:
    peak = max(value for _, _, value in pixels(map_))
    tops = [(y, x) for y, x, value in pixels(map_) if value == peak]
    total = sum(value for _, _, value in pixels(map_))
    spread = sum(value * sum((y - b) ** 2 + (x - a) ** 2 for b, a in tops) / len(tops) for y, x, value in pixels(map_))
    width, height = box[2] - box[0], box[3] - box[1]
    return math.sqrt(spread / ((width**2 + height**2) / 4 * total))


def slow_gini(map_: Tensor) -> float:
    """Half the relative mean difference, over all pairs of pixels."""
    values = [value for _, _, value in pixels(map_)]
    if not sum(values):
        return 0.0
    return sum(abs(a - b) for a in values for b in values) / (2 * len(values) * sum(values))


def slow_auc(map_: Tensor, mask: Tensor) -> float:
    inside, outside = map_[mask].tolist(), map_[~mask].tolist()
    return sum((a > b) + 0.5 * (a == b) for a in inside for b in outside) / (len(inside) * len(outside))


def slow_visual_accuracy(map_: Tensor, mask: Tensor) -> float:
    peak = max(value for _, _, value in pixels(map_))
    ious = []
    for threshold in THRESHOLDS:
        hot = {(y, x) for y, x, value in pixels(map_) if peak and value / peak > threshold}
        own = {(y, x) for y, x, _ in pixels(map_) if mask[y, x]}
        ious.append(len(hot & own) / len(hot | own) if hot | own else 0.0)
    return sum(ious) / len(ious)


def random_maps(n: int, seed: int) -> Tensor:
    """Signed, with ties and plateaus."""
    return (smooth(n, 6, 7, seed) * 3).round()


def random_masks(n: int, seed: int) -> Tensor:
    masks = noise(n, 6, 7, seed + 1000) > 0.6
    masks[:, 0, 0], masks[:, 0, 1] = True, False
    return masks


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (pointing_hits, slow_pointing),
        (energy_share, slow_energy),
        (roc_area, slow_auc),
        (lambda maps, masks: thresholded_iou(maps, masks).mean(1), slow_visual_accuracy),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_slow_loop_over_pixels(
    fast: Callable[[Tensor, Tensor], Tensor], slow: Callable[[Tensor, Tensor], float], seed: int
) -> None:
    maps, masks = random_maps(4, seed), random_masks(4, seed)
    expected = [slow(map_, mask) for map_, mask in zip(maps, masks)]
    np.testing.assert_allclose(fast(maps, masks).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_compactness_and_gini_equal_the_slow_loops(seed: int) -> None:
    maps = random_maps(4, seed)
    box = [1.0, 0.5, 6.0, 4.0]
    found = compactness(maps, torch.tensor([box] * 4))
    np.testing.assert_allclose(found.numpy(), [slow_compactness(map_, box) for map_ in maps], rtol=1e-5)
    np.testing.assert_allclose(gini(maps).numpy(), [slow_gini(map_) for map_ in maps], atol=1e-6)


def test_by_hand_on_four_by_four() -> None:
    """Positive values 1 2 8 4 1, sum 16; in the box 1 + 2 + 8; the top is at row 1, column 1."""
    mask = box_masks(torch.tensor([HAND_BOX]), (4, 4))
    assert float(pointing_hits(BY_HAND, mask)) == 1
    assert float(energy_share(BY_HAND, mask)) == 11 / 16
    # heat 1/8 2/8 1 4/8 1/8: above .1 five, of them three in the box of four: 3/6; above .2 three: 2/5; from .3 on two:
    # 1/5; from .5 on the top alone: 1/4
    assert float(thresholded_iou(BY_HAND, mask).mean()) == pytest.approx((3 / 6 + 2 / 5 + 2 / 5 + 5 / 4) / 9)
    # squared distances 1 1 0 1 1 weighed 1 2 8 4 1: 8; half a diagonal squared (4 + 4) / 4 = 2; 8 / (2 * 16) = 1/4
    assert float(compactness(BY_HAND, torch.tensor([HAND_BOX]))) == 0.5
    # ascending: eleven zeros, 1 1 2 4 8 at places 12..16: sum (2i - 17) x = 7 + 9 + 22 + 52 + 120 = 210; 16 * 16 = 256
    assert float(gini(BY_HAND)) == pytest.approx(210 / 256)
    # in the box 0 1 2 8, outside 4 1 -2 -7 and eight zeros: 0 beats 2 and ties with 8: 6; 1 beats 10, ties 1: 10.5;
    # 2 beats 11; 8 beats all 12: 39.5 of 48
    assert float(roc_area(BY_HAND, mask)) == pytest.approx(39.5 / 48)
    other = box_masks(torch.tensor([[2.0, 0.0, 4.0, 2.0]]), (4, 4))
    assert float(leakage(BY_HAND, mask, other)) == pytest.approx(4 / 15)


MASK = box_masks(torch.tensor([[10.0, 12.0, 24.0, 30.0]]), (40, 50))


def test_a_perfect_map_is_best_and_an_inverted_one_worst() -> None:
    perfect = MASK.float()
    for measure in (pointing_hits, energy_share, roc_area):
        assert float(measure(perfect, MASK)) == 1
        assert float(measure(1 - perfect, MASK)) == 0
    assert float(thresholded_iou(perfect, MASK).mean()) == 1
    assert float(thresholded_iou(1 - perfect, MASK).mean()) == 0
    own, other = MASK, box_masks(torch.tensor([[30.0, 5.0, 45.0, 15.0]]), (40, 50))
    assert float(leakage(perfect, own, other)) == 0
    assert float(leakage(1 - perfect, own, other)) == 1


def test_one_pixel_is_most_compact_and_sparse() -> None:
    point = torch.zeros(1, 40, 50)
    point[0, 20, 20] = 1
    assert float(compactness(point, torch.tensor([[10.0, 10.0, 30.0, 30.0]]))) == 0
    assert float(gini(point)) == pytest.approx(1 - 1 / 2000)
    assert float(gini(torch.ones(1, 40, 50))) == 0


def test_random_maps_are_at_chance() -> None:
    """Two hundred maps of uniform numbers; tolerances are four standard errors, or more."""
    maps, masks = noise(200, 40, 50), MASK.expand(200, -1, -1)
    share = float(MASK.float().mean())
    assert float(pointing_hits(maps, masks).mean()) == pytest.approx(share, abs=0.1)
    assert float(energy_share(maps, masks).mean()) == pytest.approx(share, abs=0.003)
    assert float(roc_area(maps, masks).mean()) == pytest.approx(0.5, abs=0.006)
    assert float(gini(maps).mean()) == pytest.approx(1 / 3, abs=0.002)
    found = VisualAccuracy()(small_case([[10, 12, 24, 30]], maps[:1]))
    expected = float(thresholded_iou(maps, masks).mean())
    assert float(found["visual_accuracy_box_chance"]) == pytest.approx(expected, abs=0.003)
    own, other = masks, box_masks(torch.tensor([[30.0, 5.0, 45.0, 15.0]]), (40, 50)).expand(200, -1, -1)
    chance = float(leakage(torch.ones(1, 40, 50), own[:1], other[:1]))
    assert float(leakage(maps, own, other).mean()) == pytest.approx(chance, abs=0.01)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_that_says_nothing_is_a_miss_and_counted(value: float) -> None:
    flat = torch.full((1, 40, 50), value)
    assert float(pointing_hits(flat, MASK)) == 0
    assert float(energy_share(flat, MASK)) == 0
    assert float(thresholded_iou(flat, MASK).mean()) == 0
    assert float(gini(flat)) == 0
    assert float(roc_area(flat, MASK)) == 0.5
    assert math.isnan(float(compactness(flat, torch.tensor([[0.0, 0.0, 9.0, 9.0]]))))


def test_a_flat_positive_map_points_nowhere_and_has_its_energy_everywhere() -> None:
    flat = torch.ones(1, 40, 50)
    assert float(pointing_hits(flat, MASK)) == 0
    assert float(energy_share(flat, MASK)) == pytest.approx(float(MASK.float().mean()))
    rest = flat.clone()
    rest[0, 0, 0] = 0.5  # the least of an order, and every other pixel is a highest one
    assert float(pointing_hits(rest, MASK)) == pytest.approx(float(MASK.sum()) / 1999)


def test_tied_maxima_are_shared() -> None:
    tied = torch.zeros(1, 40, 50)
    tied[0, 13, 11] = tied[0, 0, 0] = tied[0, 39, 49] = 5
    assert float(pointing_hits(tied, MASK)) == pytest.approx(1 / 3)


def test_nothing_to_rank_against_is_unknown() -> None:
    everything, nothing = torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    assert roc_area(BY_HAND, everything).isnan().all()
    assert roc_area(BY_HAND, nothing).isnan().all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_ranks_with_ties_are_scipys(values: list[int]) -> None:
    from scipy.stats import rankdata

    found = doubled_ranks(torch.tensor([values, values[::-1]], dtype=torch.float32))
    np.testing.assert_array_equal(found[0].numpy(), 2 * rankdata(values))
    np.testing.assert_array_equal(found[1].numpy(), 2 * rankdata(values[::-1]))


def test_the_area_is_scikit_learns() -> None:
    from sklearn.metrics import roc_auc_score

    maps, masks = random_maps(5, 0), random_masks(5, 0)
    expected = [roc_auc_score(mask.flatten().numpy(), map_.flatten().numpy()) for map_, mask in zip(maps, masks)]
    np.testing.assert_allclose(roc_area(maps, masks).numpy(), expected, atol=1e-6)


def test_the_rank_correlation_is_scipys() -> None:
    from scipy.stats import spearmanr

    first, second = random_maps(5, 0), random_maps(5, 7)
    expected = [spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic for a, b in zip(first, second)]
    np.testing.assert_allclose(rank_correlation(first, second).numpy(), expected, atol=1e-6)


def test_rank_correlation_at_its_limits() -> None:
    maps, flat = smooth(3, 6, 7), torch.ones(3, 6, 7)
    assert torch.allclose(rank_correlation(maps, maps.exp()), torch.ones(3))
    assert torch.allclose(rank_correlation(maps, -maps), -torch.ones(3))
    assert rank_correlation(maps, flat).tolist() == [0, 0, 0]
    assert rank_correlation(flat, 2 * flat).tolist() == [1, 1, 1]
    assert rank_correlation(maps[:0], maps[:0]).shape == (0,)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 1000), seed=st.integers(0, 20))
def test_the_scale_of_a_map_does_not_matter(scale: float, seed: int) -> None:
    maps, masks = smooth(2, 6, 7, seed), random_masks(2, seed)
    boxes = torch.tensor([[0.0, 0.0, 3.0, 4.0]] * 2)
    for measure in (pointing_hits, energy_share, roc_area):
        torch.testing.assert_close(measure(maps * scale, masks), measure(maps, masks), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gini(maps * scale), gini(maps), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(compactness(maps * scale, boxes), compactness(maps, boxes), atol=1e-4, rtol=1e-4)


OBJECTS = Objects(
    torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0], [2.0, 0.0, 6.0, 4.0]]), torch.tensor([1, 1, 1])
)


def test_leakage_gives_common_pixels_to_the_own_object() -> None:
    """Columns 0-1 are the first object's only, 2-3 shared, 4-7 others'."""
    maps = torch.arange(8.0).expand(1, 4, 8) + 1
    case = small_case([[0, 0, 4, 4]], maps, objects=OBJECTS, object_of=torch.tensor([0]))
    found = Leakage()(case)
    assert float(found["leakage"]) == pytest.approx((5 + 6 + 7 + 8) / 36)
    assert float(found["leakage_chance"]) == 0.5
    own, other = own_and_other(box_masks(OBJECTS.boxes, (4, 8)), torch.tensor([0, -1]))
    assert own.any(1)[0].tolist() == [True] * 4 + [False] * 4
    assert other.any(1)[0].tolist() == [False] * 4 + [True] * 4
    assert not own[1].any()


def test_leakage_is_unknown_without_an_own_or_another_object() -> None:
    maps = noise(2, 4, 8)
    boxes = [[0.0, 0.0, 4.0, 4.0]] * 2
    alone = Objects(OBJECTS.boxes[:1], OBJECTS.labels[:1])
    assert Leakage()(small_case(boxes, maps, objects=alone, object_of=torch.tensor([0, 0])))["leakage"].isnan().all()
    found = Leakage()(small_case(boxes, maps, objects=OBJECTS, object_of=torch.tensor([-1, 1])))["leakage"]
    assert found.isnan().tolist() == [True, False]
    assert Leakage()(small_case(boxes, maps))["leakage"].isnan().all()


def test_masks_count_where_they_are_annotated() -> None:
    masks = torch.zeros(2, 4, 8, dtype=torch.bool)
    masks[0, 1, 1], masks[1, 2, 6] = True, True
    objects = Objects(OBJECTS.boxes[:2], OBJECTS.labels[:2], masks)
    maps = torch.ones(2, 4, 8)
    maps[0, 1, 1], maps[0, 2, 6] = 3, 2
    case = small_case([[0, 0, 4, 4]] * 2, maps, objects=objects, object_of=torch.tensor([0, -1]))
    assert float(Leakage()(case)["leakage"][0]) == pytest.approx(2 / 5)
    energy, pointing, accuracy = EnergyPointingGame()(case), PointingGame()(case), VisualAccuracy((0.9,))(case)
    assert float(energy["energy_mask"][0]) == pytest.approx(3 / 35)
    assert float(energy["energy_mask_chance"][0]) == pytest.approx(1 / 32)
    assert float(pointing["pointing_mask"][0]) == 1
    assert float(accuracy["visual_accuracy"][0]) == 1
    for values in (energy["energy_mask"], pointing["pointing_mask"], accuracy["visual_accuracy"]):
        assert values.isnan().tolist() == [False, True]


@pytest.mark.parametrize("measure", [PointingGame, EnergyPointingGame, VisualAccuracy, Compactness])
def test_the_box_may_be_the_annotated_one(measure: type) -> None:
    """A detection whose object is elsewhere: measured at the object, it equals a detection that lies there."""
    maps = smooth(2, 4, 8)
    elsewhere = [4.0, 0.0, 8.0, 4.0]
    case = small_case([[0, 0, 4, 3]] * 2, maps, objects=OBJECTS, object_of=torch.tensor([1, -1]))
    there = measure()(small_case([elsewhere] * 2, maps))
    for key, values in measure(reference="object")(case).items():
        if "mask" in key or (key.startswith("visual_accuracy") and "box" not in key):
            continue
        assert float(values[0]) == float(there[key][0])
        assert bool(values[1].isnan())


def test_known_evidence() -> None:
    evidence = torch.cat([MASK, MASK, torch.zeros_like(MASK)])
    maps = torch.cat([MASK.float(), 1 - MASK.float(), noise(1, 40, 50)])
    case = small_case([[5, 5, 40, 35]] * 3, maps, evidence=evidence, allow_cropped=True)
    mass, area = EvidenceMass()(case), EvidenceAUC()(case)["evidence_auc"]
    assert mass["evidence_mass"][:2].tolist() == [1, 0]
    assert area[:2].tolist() == [1, 0]
    assert float(mass["evidence_mass_chance"][0]) == pytest.approx(float(MASK.float().mean()))
    assert mass["evidence_mass"].isnan().tolist() == area.isnan().tolist() == [False, False, True]
    nothing = small_case([[5, 5, 40, 35]] * 3, maps, allow_cropped=True)
    assert EvidenceMass()(nothing)["evidence_mass"].isnan().all()
    assert EvidenceAUC()(nothing)["evidence_auc"].isnan().all()


CAUSES = torch.cat([MASK, box_masks(torch.tensor([[30.0, 5.0, 45.0, 15.0]]), (40, 50))])


@pytest.mark.parametrize(
    ("map_", "expected"),
    [
        (CAUSES.any(0).float(), [1.0, 1.0, 1.0]),
        (CAUSES[0].float(), [0.0, 0.5, 0.5]),  # the second cause ties with everything else
        (CAUSES[0] + 0.2 * CAUSES[1], [1.0, 1.0, 1.0]),  # fainter, but above all that is no cause
        (1 - CAUSES.any(0).float(), [0.0, 0.0, 0.0]),
        (torch.zeros(40, 50), [0.0, 0.0, 0.5]),
    ],
)
def test_are_both_causes_found(map_: Tensor, expected: list[float]) -> None:
    case = small_case([[0, 0, 50, 40]], map_[None], causes=[CAUSES])
    found = CausesFound()(case)
    assert [float(found[key]) for key in ("causes_all", "causes_share", "causes_worst_auc")] == expected


def test_one_cause_is_no_choice() -> None:
    one_hidden = torch.cat([MASK, torch.zeros_like(MASK)])  # the other cause is covered by something
    case = small_case([[0, 0, 50, 40]] * 3, noise(3, 40, 50), causes=[MASK, one_hidden, MASK[:0]])
    assert all(values.isnan().all() for values in CausesFound()(case).values())


def test_each_cause_is_measured_against_what_is_none() -> None:
    map_ = smooth(1, 40, 50)[0]
    nowhere = ~CAUSES.any(0)
    expected = []
    for cause in CAUSES:
        kept = cause | nowhere
        expected.append(float(roc_area(map_[kept][None, None], cause[kept][None, None])))
    np.testing.assert_allclose(cause_areas(map_, CAUSES).numpy(), expected, atol=1e-6)


def test_random_maps_find_no_causes() -> None:
    areas = torch.stack([cause_areas(map_, CAUSES) for map_ in noise(100, 40, 50)])
    assert float(areas.mean()) == pytest.approx(0.5, abs=0.01)
    assert not bool((areas > 0.9).any())


def test_sparseness_of_a_case() -> None:
    assert float(Sparseness()(small_case([HAND_BOX], BY_HAND))["sparseness"]) == pytest.approx(210 / 256)
