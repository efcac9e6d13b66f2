"""Average drop, infidelity and ROAD: each against a loop that changes one photo at a time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_cases import noise, scene_case, scene_detections, scene_image, scenes_detector, smooth
from torch import Tensor

from detxai.adapters.detector import Inputs
from detxai.detections import Detections
from detxai.engine.masking.canvas import filling_image
from detxai.metrics import ROAD, AverageDrop, Case, Infidelity
from detxai.metrics.infidelity import infidelity, patch_sums, random_squares
from detxai.metrics.inputs.imputation import impute
from detxai.metrics.inputs.maps import heatmaps
from detxai.metrics.inputs.scores import detection_targets
from detxai.metrics.insertion_deletion import pixel_ranks
from detxai.metrics.road import removal_scores
from detxai.targets import score_targets

CLOSE: Any = {"atol": 2e-5, "rtol": 0}


def asked(case: Case, photo: Any) -> Tensor:
    """(T,) score A of every detection on a changed photo, or prepared inputs."""
    with torch.no_grad():
        return score_targets(detection_targets(case, "class_score", "detection"), case.detector.candidates(photo))[:, 0]


def blended(case: Case, heat: Tensor, fill: Any) -> Inputs:
    """The photo seen through heat (H, W): mixed in the model's own input."""
    clean = case.detector.prepare(case.image)
    filling = case.detector.prepare(filling_image(case.image, fill)).tensor
    height, width = clean.geometries[0].resized_size
    mixed = clean.tensor.clone()
    mixed[0, :, :height, :width] = (heat * clean.tensor + (1 - heat) * filling)[0, :, :height, :width]
    return Inputs(mixed, clean.geometries, clean.images)


@pytest.mark.parametrize("fill", ["black", "blur"])
def test_average_drop_equals_one_photo_at_a_time(fill: Any) -> None:
    case = scene_case()
    found = AverageDrop(fill=fill)(case)
    clean = asked(case, case.image)
    heat = heatmaps(case.maps)
    for t in range(2):
        seen = asked(case, blended(case, heat[t], fill))[t]
        assert float(found["average_drop"][t]) == pytest.approx(max(0.0, float((clean[t] - seen) / clean[t])), abs=2e-5)
        assert float(found["increase"][t]) == float(seen > clean[t])


def test_average_drop_at_its_limits() -> None:
    """Everything shown loses nothing; nothing shown loses everything that the filling does not bring back."""
    whole, nothing = torch.ones(2, 160, 160), -torch.ones(2, 160, 160)
    everything = AverageDrop()(scene_case(whole))
    assert everything["average_drop"].tolist() == pytest.approx([0, 0], abs=1e-5)
    case = scene_case(nothing)
    lost = 1 - asked(case, np.zeros_like(case.image)) / asked(case, case.image)
    torch.testing.assert_close(AverageDrop()(case)["average_drop"], lost, **CLOSE)
    assert AverageDrop()(case)["increase"].tolist() == [0, 0]


def slow_infidelity(foretold: list[float], drops: list[float]) -> float:
    """The least of the errors over a fine grid of factors."""
    scale = max(map(abs, drops)) / max(max(map(abs, foretold)), 1e-9)
    factors = np.linspace(0, 4 * scale, 20001)
    return float(np.mean((factors[:, None] * np.array(foretold) - np.array(drops)) ** 2, axis=1).min())


@pytest.mark.parametrize("seed", range(4))
def test_infidelity_takes_the_best_factor_that_is_not_negative(seed: int) -> None:
    foretold, drops = smooth(2, 1, 12, seed)[:, 0].unbind(0)
    found = float(infidelity(foretold[None], drops[None]))
    assert found == pytest.approx(slow_infidelity(foretold.tolist(), drops.tolist()), rel=1e-3, abs=1e-6)


def test_infidelity_equals_one_patch_at_a_time() -> None:
    case, settings = scene_case(), Infidelity(n_patches=6, fill="mean", seed=2)
    clean, filling = asked(case, case.image), filling_image(case.image, "mean")
    foretold: list[list[float]] = [[], []]
    drops: list[list[float]] = [[], []]
    for x1, y1, x2, y2 in random_squares(settings, (160, 160)).int().tolist():
        photo = case.image.copy()
        photo[y1:y2, x1:x2] = filling[y1:y2, x1:x2]
        after = asked(case, photo)
        for t in range(2):
            foretold[t].append(float(case.maps[t, y1:y2, x1:x2].sum()))
            drops[t].append(float(clean[t] - after[t]))
    found = settings(case)
    for t in range(2):
        expected = slow_infidelity(foretold[t], drops[t])
        assert float(found["infidelity"][t]) == pytest.approx(expected, rel=2e-3, abs=1e-5)
        share = expected / float(np.mean(np.square(drops[t])))
        assert float(found["infidelity_normalised"][t]) == pytest.approx(share, rel=5e-3, abs=1e-3)


def test_infidelity_at_its_limits() -> None:
    """A map that foretells every drop has none; one that foretells nothing, or the opposite, has all."""
    drops = smooth(1, 1, 50)[0]
    nothing = float(drops.pow(2).mean())
    assert float(infidelity(3 * drops, drops)) == pytest.approx(0, abs=1e-9)
    assert float(infidelity(-drops, drops)) == pytest.approx(nothing)
    assert float(infidelity(torch.zeros_like(drops), drops)) == pytest.approx(nothing)
    flat = Infidelity(n_patches=3)(scene_case(torch.zeros(2, 160, 160)))
    assert flat["infidelity_normalised"].tolist() == pytest.approx([1, 1])


def test_a_random_map_foretells_what_a_flat_one_does() -> None:
    """The mean of many random numbers in a patch is the same everywhere: only its area speaks."""
    found = Infidelity(n_patches=12)(scene_case(noise(2, 160, 160)))
    torch.testing.assert_close(found["infidelity_normalised"], found["infidelity_chance"], atol=0.03, rtol=0)
    flat = Infidelity(n_patches=12)(scene_case(torch.full((2, 160, 160), 0.7)))
    torch.testing.assert_close(flat["infidelity_normalised"], found["infidelity_chance"], atol=1e-4, rtol=0)


def test_squares_are_whole_pixels_within_the_image() -> None:
    squares = random_squares(Infidelity(n_patches=500, smallest=0.2, largest=0.5), (40, 60))
    sides = squares[:, 2:] - squares[:, :2]
    assert torch.equal(sides[:, 0], sides[:, 1])
    assert torch.equal(squares, squares.round())
    assert float(squares[:, :2].min()) == 0
    assert (float(squares[:, 2].max()), float(squares[:, 3].max())) == (60, 40)
    assert (float(sides.min()), float(sides.max())) == (8, 20)
    maps = smooth(2, 40, 60)
    expected = [[float(map_[b:d, a:c].sum()) for a, b, c, d in squares[:9].int().tolist()] for map_ in maps]
    np.testing.assert_allclose(patch_sums(maps, squares[:9]).numpy(), expected, rtol=1e-4, atol=1e-3)


def masks_to_fill(height: int, width: int) -> Tensor:
    """True where the photo stays: blobs, grains, a border gone, one pixel missing, one pixel left."""
    blobs = smooth(1, height, width)[0]
    border = torch.zeros(height, width, dtype=torch.bool)
    border[height // 4 : -height // 4, width // 4 : -width // 4] = True
    single = torch.zeros(height, width, dtype=torch.bool)
    single[height // 2, width // 3] = True
    grains = noise(1, height, width)[0] > 0.7
    return torch.stack([blobs > 0, blobs > float(blobs.quantile(0.9)), grains, border, ~single, single])


@pytest.mark.parametrize(("height", "width"), [(24, 31), (64, 48)])
def test_imputation_is_grad_cams(height: int, width: int) -> None:
    """grad-cam carries the imputer of ROAD's authors: a sparse factorisation, one mask at a time."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    photo = noise(3, height, width)
    keep = masks_to_fill(height, width)
    found = impute(photo, keep, noise=0)
    for mask, image in zip(keep, found):
        expected = NoisyLinearImputer(noise=0)(photo, mask.float())
        torch.testing.assert_close(image, expected, atol=1e-3, rtol=0)
        torch.testing.assert_close(image[:, mask], photo[:, mask], atol=0, rtol=0)


def test_each_missing_pixel_is_the_mean_of_its_neighbours() -> None:
    """The equation itself, pixel by pixel, also at the edge."""
    photo, keep = noise(3, 13, 11), masks_to_fill(13, 11)[2]
    (image,) = impute(photo, keep[None], noise=0)
    for y, x in (~keep).nonzero().tolist():
        total, weights = torch.zeros(3), 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < 13 and 0 <= x + dx < 11:
                    weight = 1 / 12 if dy and dx else 1 / 6
                    total, weights = total + weight * image[:, y + dy, x + dx], weights + weight
        torch.testing.assert_close(image[:, y, x], total / weights, atol=1e-3, rtol=0)


def test_one_hole_by_hand() -> None:
    """Four sides of 6 and four corners of 12: 4/6 * 6 + 4/12 * 12."""
    photo = torch.tensor([[12.0, 6.0, 12.0], [6.0, -99.0, 6.0], [12.0, 6.0, 12.0]]).expand(3, 3, 3)
    keep = torch.ones(1, 3, 3, dtype=torch.bool)
    keep[0, 1, 1] = False
    assert impute(photo, keep, noise=0)[0, :, 1, 1].tolist() == pytest.approx([8, 8, 8], abs=1e-3)


def test_imputation_knows_no_units() -> None:
    """A model's normalisation is affine, so filling before or after it is the same."""
    photo, keep = noise(3, 24, 31), masks_to_fill(24, 31)
    mean, scale = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([4.0, 5.0, 6.0])[:, None, None]
    before = (impute(photo, keep, 0.1) - mean) * scale
    torch.testing.assert_close(impute((photo - mean) * scale, keep, 0.1), before, atol=5e-3, rtol=0)


def test_with_nothing_left_the_mean_colour_stands() -> None:
    photo = noise(3, 9, 9)
    nothing = torch.zeros(1, 9, 9, dtype=torch.bool)
    torch.testing.assert_close(impute(photo, nothing, 0)[0], photo.mean((1, 2), keepdim=True).expand_as(photo))


def test_the_noise_is_a_share_of_the_images_own_and_only_on_what_is_missing() -> None:
    photo = 3 * noise(3, 64, 64)
    keep = masks_to_fill(64, 64)[:1]
    difference = (impute(photo, keep, 0.1, seed=5) - impute(photo, keep, 0))[0]
    assert float(difference[:, ~keep[0]].std()) == pytest.approx(0.1 * float(photo.std()), rel=0.05)
    assert not difference[:, keep[0]].any()
    torch.testing.assert_close(impute(photo, keep, 0.1, seed=5), impute(photo, keep, 0.1, seed=5), atol=0, rtol=0)


def test_road_equals_one_photo_at_a_time_with_grad_cams_imputer() -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    case, settings = scene_case(), ROAD(fractions=(0.2, 0.7), noise=0)
    found = removal_scores(case, settings)
    clean = case.detector.prepare(case.image)
    for t in range(2):
        ranks = pixel_ranks(case.maps[t : t + 1])[0]
        for place, fraction in enumerate(settings.fractions):
            n = round(fraction * ranks.numel())
            for order, kept in enumerate((ranks >= n, ranks < ranks.numel() - n)):
                height, width = kept.shape
                tensor = clean.tensor.clone()
                inside = tensor[0, :, :height, :width]
                tensor[0, :, :height, :width] = NoisyLinearImputer(noise=0)(inside, kept.float())
                expected = asked(case, Inputs(tensor, clean.geometries, clean.images))[t]
                assert float(found[t, order, place]) == pytest.approx(float(expected), abs=3e-3)
    summary = settings(case)
    torch.testing.assert_close(summary["road_most_first"], found[:, 0].mean(1))
    torch.testing.assert_close(summary["road"], (found[:, 1] - found[:, 0]).mean(1) / 2)


def test_an_upside_down_map_has_the_opposite_road() -> None:
    settings = ROAD(fractions=(0.3, 0.6))
    one, other = settings(scene_case()), settings(scene_case(-scene_case().maps))
    torch.testing.assert_close(one["road"], -other["road"], **CLOSE)
    torch.testing.assert_close(one["road_most_first"], other["road_least_first"], **CLOSE)


def test_a_random_map_is_at_chance_on_road_and_mark_and_body_are_not() -> None:
    from detxai.scenes import CLASS_NAMES, generate

    scene, found = generate(0, "local"), scene_detections()
    names = [CLASS_NAMES[label] for label in scene.labels]
    places = [names.index(found.name(t)) for t in range(2)]
    known = torch.stack([torch.from_numpy(2.0 * scene.evidence[g] + scene.silhouettes[g]) for g in places])
    assert np.array_equal(scene.image, scene_image())
    random = torch.stack([ROAD((0.2, 0.6))(scene_case(noise(2, 160, 160, seed)))["road"] for seed in range(2)])
    assert float(random.mean()) == pytest.approx(0, abs=0.1)
    informed = ROAD((0.2, 0.6))(scene_case(known, allow_cropped=True))["road"]
    assert float(informed.mean()) > float(random.mean()) + 0.1


@pytest.mark.parametrize(
    "measure", [AverageDrop(batch_size=1), ROAD((0.5,), batch_size=3), Infidelity(5, batch_size=2)]
)
def test_the_batch_size_changes_no_measure(measure: Any) -> None:

    one, other = measure(scene_case()), dataclasses.replace(measure, batch_size=None)(scene_case())
    for key, values in one.items():
        torch.testing.assert_close(values, other[key], atol=1e-3 if "normalised" in key else 1e-4, rtol=0)


def test_a_detection_that_nothing_supports_is_unknown() -> None:
    """A box that no candidate touches scores 0 on the clean image: nothing to lose."""
    image = np.zeros((160, 160, 3), dtype=np.uint8)
    ghost = Detections([[-60.0, -60.0, -50.0, -50.0]], [0.5], [1])
    case = Case(scenes_detector(), image, ghost, noise(1, 160, 160))
    assert all(math.isnan(float(values)) for values in AverageDrop()(case).values())
    assert math.isnan(float(Infidelity(n_patches=3)(case)["infidelity_normalised"]))
