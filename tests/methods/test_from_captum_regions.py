"""On detectors whose score is a known function of regions, region methods find its exact Shapley values."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pytest
from black_boxes import SIZE, WHITE, sees, share
from PIL import Image

import detxai
from detxai.methods import METHODS

pytest.importorskip("captum.attr")

CELLS = [(row * 24, column * 16) for row in range(2) for column in range(4)]  # of 24 x 16 pixels: 8 regions
EIGHT: dict[str, Any] = {"regions": "grid", "n_regions": 8}


def value(shown: Any) -> float:
    """The score of the 8 regions shown, each in [0, 1]: some that count alone, and two that work together."""
    return float(0.1 * shown[0] + 0.2 * shown[1] + 0.05 * shown[5] + 0.4 * shown[2] * shown[6] + 0.1)


def exact_shapley() -> list[float]:
    """From all coalitions, by the definition."""
    found = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        total = 0.0
        for size in range(8):
            weight = factorial(size) * factorial(7 - size) / factorial(8)
            for coalition in combinations(others, size):
                without = np.isin(np.arange(8), coalition).astype(float)
                total += weight * (value(without + (np.arange(8) == i)) - value(without))
        found.append(total)
    return found


def detector() -> Any:
    parts = [share(top, left, 24, 16) for top, left in CELLS]
    return sees(lambda bright: value([part(bright) for part in parts]), lambda bright: 0.5 * parts[3](bright))


@pytest.fixture(scope="module")
def found() -> Any:
    return detector().detect(WHITE)


def test_shapley_sampling_and_kernel_shap_agree_with_exact_shapley_values(found: Any) -> None:
    exact = exact_shapley()
    assert sum(exact) == pytest.approx(value(np.ones(8)) - value(np.zeros(8)))
    sampled = METHODS["shapley_sampling"](**EIGHT, n_orders=40)(detector(), WHITE, found)
    fitted = METHODS["kernel_shap"](**EIGHT, n_samples=300)(detector(), WHITE, found)
    # the two that work together gain .4 or 0: the standard error of 40 orders is .03
    assert sampled[0].details["effects"] == pytest.approx(exact, abs=0.08)
    assert fitted[0].details["effects"] == pytest.approx(exact, abs=0.05)
    for explanations in (sampled, fitted):
        assert sum(explanations[0].details["effects"]) == pytest.approx(sum(exact), abs=1e-4)
        assert explanations[1].details["effects"] == pytest.approx([0, 0, 0, 0.5, 0, 0, 0, 0], abs=1e-4)
        assert explanations[0].values.sum() == pytest.approx(sum(exact), abs=1e-4)


def test_feature_ablation_and_lime_find_what_counts(found: Any) -> None:
    ablated = METHODS["feature_ablation"](**EIGHT)(detector(), WHITE, found)[0]
    assert ablated.details["effects"] == pytest.approx([0.1, 0.2, 0.4, 0, 0, 0.05, 0.4, 0], abs=1e-6)
    fitted = METHODS["lime"](**EIGHT, n_samples=100, alpha=1e-4)(detector(), WHITE, found)
    assert fitted[1].details["effects"] == pytest.approx([0, 0, 0, 0.5, 0, 0, 0, 0], abs=0.01)
    assert set(np.argsort(fitted[0].details["effects"])[-3:]) == {1, 2, 6}


def test_occlusion_finds_the_patch_and_leaves_the_rest_at_zero() -> None:
    patch = sees(share(16, 24, 8, 8))
    (explanation,) = METHODS["occlusion"](window=8, stride=8)(patch, WHITE, patch.detect(WHITE))
    expected = np.zeros(SIZE)
    expected[16:24, 24:32] = 1
    np.testing.assert_allclose(explanation.values, expected, atol=1e-6)


def test_windows_may_be_shares_of_each_box() -> None:
    wide = sees(share(16, 24, 8, 8), share(0, 0, 8, 8), box=(20, 12, 52, 40))  # 32 x 28 pixels
    explanations = METHODS["occlusion"](window=0.5, stride=0.25)(wide, WHITE, wide.detect(WHITE))
    assert [tuple(one.details["window_input"]) for one in explanations] == [(14, 16)] * 2
    assert [tuple(one.details["stride_input"]) for one in explanations] == [(7, 8)] * 2
    assert explanations[0].cost.forward_passes == 2 * (1 + 6 * 7)


def test_superpixels_follow_the_images_edges() -> None:
    pytest.importorskip("skimage")
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:, :20], image[:, 20:] = (255, 0, 0), (0, 0, 255)
    seen = sees(lambda bright: float(bright[:, :20].mean()) * 3)
    (explanation,) = METHODS["feature_ablation"](n_regions=2)(seen, image, seen.detect(image))
    assert explanation.values[:, :20].min() > 0
    assert np.abs(explanation.values[:, 20:]).max() == 0


def test_maps_of_larger_and_smaller_inputs_keep_their_sum() -> None:
    """A YOLO that enlarges an image, or makes it smaller: what the regions add up to is what the map adds up to."""
    from plain_hooks import OneStage

    case = OneStage()
    for height, width in ((30, 45), (150, 100)):
        image = Image.fromarray((case.image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).resize((width, height))
        scaled = detxai.wrap(case.model, input_size=64)
        one = scaled.detect(image, 0.01)[:1]
        (explanation,) = METHODS["shapley_sampling"](**EIGHT, n_orders=1)(scaled, image, one)
        assert explanation.values.shape == (height, width)
        assert explanation.values.sum() == pytest.approx(sum(explanation.details["effects"]), rel=1e-4, abs=1e-7)
