"""Attacks on one box: the ball, the best change where it is known, and what a planted shortcut's attack must change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from filter_detectors import grey, linear_detector
from hypothesis import given, settings
from hypothesis import strategies as st

import detxai
from detxai.adapters.network import NetworkDetector, require_network
from detxai.detections import Detections
from detxai.engine.attacks.attack import attack, strongest_pixels
from detxai.engine.attacks.goals import make_goal, shifted
from detxai.engine.attacks.pgd import PGD, Norm, rounded_within
from detxai.engine.pixel_versions import PixelVersions
from detxai.scenes import erase_elsewhere, generate

EPSILON = 0.1


@pytest.fixture(scope="module")
def yolo() -> NetworkDetector:
    pytest.importorskip("ultralytics", reason="the extra yolo")
    return require_network(detxai.wrap("scenes-yolo"))


def weights(detector: Any) -> torch.Tensor:
    return detector.model.filters.weight.detach()[0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_change_of_a_linear_score_is_found(norm: Norm) -> None:
    detector, image = linear_detector(), grey()
    goal = make_goal("vanish", detector, image, detector.detect(image))
    found = PGD(norm, EPSILON, steps=10, random_start=norm == "linf")(detector, image, goal)[0] - 128 / 255
    down = -weights(detector).sign() if norm == "linf" else -weights(detector) / weights(detector).norm()
    torch.testing.assert_close(found, EPSILON * down, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_mask_confines_the_attack_and_the_rest_is_the_best_there(norm: Norm) -> None:
    detector, image = linear_detector(), grey()
    goal = make_goal("vanish", detector, image, detector.detect(image))
    mask = torch.zeros(2, 12, 12, dtype=torch.bool)
    mask[0, :3], mask[1, 5:, 7:] = True, True
    found = PGD(norm, EPSILON, steps=10, random_start=norm == "linf")(detector, image, goal, mask) - 128 / 255
    for change, allowed in zip(found, mask):
        inside = weights(detector) * allowed
        down = -inside.sign() if norm == "linf" else -inside / inside.norm()
        torch.testing.assert_close(change, EPSILON * down, atol=1e-4, rtol=1e-3)


def test_a_budget_takes_the_pixels_of_the_largest_weights() -> None:
    detector, image = linear_detector(), grey()
    goal = make_goal("vanish", detector, image, detector.detect(image))
    (found,) = attack(detector, image, goal, PGD("linf", EPSILON, 10), pixel_budget=10 / 144)
    strongest = weights(detector).square().sum(0).flatten().topk(10).indices
    assert set(np.flatnonzero(found.energy)) == set(strongest.tolist())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["linf", "l2"]), st.floats(0.001, 2.0), st.integers(0, 99))
def test_rounding_to_whole_numbers_stays_in_the_ball(norm: Norm, radius: float, seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, 5, 7), generator=dice).to(torch.uint8)
    change = torch.rand(2, 3, 5, 7, generator=dice).double() * 2 - 1
    size = change.abs().amax((1, 2, 3)) if norm == "linf" else change.flatten(1).norm(dim=1)
    attacked = (image / 255 + change * (radius / size)[:, None, None, None]).clamp(0, 1)
    moved = (rounded_within(image, attacked, norm, radius).double() - image.double()) / 255
    length = moved.abs().amax() if norm == "linf" else moved.flatten(1).norm(dim=1).amax()
    assert float(length) <= radius * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 4 / 255), ("l2", 0.5)])
def test_on_a_real_network_it_stays_in_its_ball_and_in_its_mask(
    yolo: NetworkDetector, norm: Norm, epsilon: float
) -> None:
    image = generate(3, "local").image
    detections = yolo.detect(image)
    mask = torch.zeros(1, *image.shape[:2], dtype=torch.bool)
    mask[0, 40:120, 30:130] = True
    before = yolo.fingerprint()
    (found,) = attack(yolo, image, make_goal("vanish", yolo, image, detections[0]), PGD(norm, epsilon, steps=3), mask)
    change = (found.attacked.astype(float) - image) / 255
    length = np.abs(change).max() if norm == "linf" else np.linalg.norm(change)
    assert 0 < length <= epsilon + 1e-9
    assert not change[~mask[0].numpy()].any()
    assert found.score_after < found.score_before
    assert yolo.fingerprint() == before


def test_the_attack_of_a_planted_shortcut_must_change_the_watermark(yolo: NetworkDetector) -> None:
    """At the watermark's pixels the class can be changed; at as many pixels elsewhere, off the object, it cannot."""
    scene = generate(60, "shortcut")
    detections = yolo.detect(scene.image)
    level = next(label for label, name in yolo.class_names.items() if name == "gem-level")
    goal = make_goal("class", yolo, scene.image, detections[0], other=level)
    _, elsewhere = erase_elsewhere(scene, 0)
    masks = torch.from_numpy(np.stack([scene.evidence[0], elsewhere]))
    assert masks[0].sum() == masks[1].sum()
    watermark, control = attack(yolo, scene.image, goal, PGD("linf", 1.0, steps=6), masks)
    assert watermark.is_reached
    assert watermark.score_after < 0.1
    assert not control.is_reached
    assert control.score_after > 0.8


def test_versions_of_the_image_are_read_as_the_model_reads_them(yolo: NetworkDetector) -> None:
    for size in ((96, 128), (331, 250)):
        image = np.asarray(np.random.default_rng(0).integers(0, 256, (*size, 3)), dtype=np.uint8)
        image = np.asarray(torch.nn.functional.avg_pool2d(torch.tensor(image).permute(2, 0, 1).float(), 5, 1, 2)
                           .permute(1, 2, 0).numpy(), dtype=np.uint8)  # fmt: skip
        versions = PixelVersions.of_image(yolo, image)
        assert torch.equal(versions.inputs(versions.pixels).tensor, versions.clean.tensor)
        other = image[:, ::-1].copy()
        made = versions.inputs(torch.tensor(other / 255).permute(2, 0, 1)[None].float()).tensor
        assert float((made - yolo.prepare(other).tensor).abs().mean()) < 0.004  # it rounds to whole numbers: 1/255


def test_a_moved_box_stays_in_the_image() -> None:
    assert shifted([0, 0, 60, 8], (100, 100)) == [30, 0, 90, 8]
    assert shifted([40, 0, 100, 8], (100, 100)) == [10, 0, 70, 8]
    assert shifted([0, 0, 100, 8], (100, 100)) == [0, 0, 100, 8]


def test_the_strongest_pixels_are_allowed_ones() -> None:
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    attacked = torch.tensor([[[0.9, 0.1, 0.8], [0.2, 0.7, 0.0]]]).expand(1, 3, 2, 3)
    allowed = torch.tensor([[[False, True, True], [True, True, True]]])
    expected = torch.tensor([[[False, False, True], [False, True, False]]])
    assert torch.equal(strongest_pixels(image, attacked, allowed, 2 / 6), expected)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: PGD("l1"), "norm must be one of"),  # type: ignore[arg-type]
        (lambda: PGD(epsilon=0), "epsilon must be"),
        (lambda: PGD(epsilon=float("nan")), "epsilon must be"),
        (lambda: PGD(steps=0), "steps must be"),
        (lambda: PGD(seed=-1), "seed must be"),
    ],
)
def test_wrong_settings_are_refused(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


def test_wrong_questions_are_refused_before_any_work() -> None:
    detector, image = linear_detector(), grey()
    found = detector.detect(image)
    goal = make_goal("vanish", detector, image, found)
    with pytest.raises(ValueError, match="goal must be one of"):
        make_goal("explode", detector, image, found)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one box"):
        make_goal("vanish", detector, image, Detections([], [], []))
    with pytest.raises(ValueError, match="other is for the goal 'class'"):
        make_goal("vanish", detector, image, found, other=1)
    with pytest.raises(ValueError, match="other must be one of"):
        make_goal("class", detector, image, found, other=0)
    with pytest.raises(ValueError, match="destination is for the goal 'move'"):
        make_goal("class", detector, image, found, destination=[0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"masks must be bool \(M, 12, 12\)"):
        attack(detector, image, goal, masks=torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one pixel"):
        attack(detector, image, goal, masks=torch.zeros(1, 12, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match="pixel_budget"):
        attack(detector, image, goal, pixel_budget=0)
