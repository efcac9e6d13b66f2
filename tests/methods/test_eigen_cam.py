"""EigenCAM: grad-cam's map, hundreds of times faster, never inverted."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import EigenCAM as PeerEigenCAM
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

import detxai
from detxai.adapters.views.grad_cam import GradCamView
from detxai.methods.eigen_cam import EigenCAM, principal_projection
from detxai.reshape import fpn_reshape_transform


def _correlation(first: Any, second: Any) -> float:
    return float(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), channels=st.integers(2, 24), height=st.integers(2, 9), width=st.integers(2, 9))
def test_projection_is_the_full_svds(seed: int, channels: int, height: int, width: int) -> None:
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, height, width, generator=g, dtype=torch.float64)
    ours = principal_projection(features).numpy()
    theirs = get_2d_projection(features.numpy())
    for a, b in zip(ours, theirs):
        assert abs(_correlation(a, b)) > 0.999
        assert np.abs(a).max() == pytest.approx(np.abs(b).max(), rel=1e-3)


def test_never_inverted_on_500_positive_blobs() -> None:
    """Objects are where features are strong, whatever the channels' signs, the blob's size and the noise."""
    g = torch.Generator().manual_seed(0)
    inverted = 0
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    for _ in range(500):
        y, x, size = torch.rand(3, generator=g).tolist()
        blob = torch.exp(-((rows - 4 - 12 * y) ** 2 + (columns - 4 - 16 * x) ** 2) / (2 * (1.5 + 3 * size) ** 2))
        strength = torch.rand(16, generator=g) * 3
        features = strength[:, None, None] * blob + 0.1 * torch.randn(16, 20, 24, generator=g).abs()
        values = principal_projection(features[None])[0]
        inverted += float(values[blob > 0.5].mean()) <= float(values[blob < 0.1].mean())
    assert inverted == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_and_sign_of_channels_do_not_matter(seed: int) -> None:
    """An eigenvector's sign is arbitrary; the map's is not."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 12, 6, 7, generator=g, dtype=torch.float64) * torch.rand(1, 12, 1, 1, generator=g) * 4
    shuffled = features[:, torch.randperm(12, generator=g)] * torch.randint(0, 2, (1, 12, 1, 1), generator=g).mul(
        2
    ).sub(1)
    torch.testing.assert_close(principal_projection(features), principal_projection(shuffled), atol=1e-8, rtol=0)


def test_flat_features_give_a_zero_map_and_bad_ones_an_error() -> None:
    assert float(principal_projection(torch.full((1, 4, 5, 5), 3.0)).abs().max()) < 1e-5
    with pytest.raises(ValueError, match="features must be finite"):
        principal_projection(torch.full((1, 4, 5, 5), torch.nan))
    with pytest.raises(ValueError, match=r"features must have shape \(B, C, h, w\), got \(4, 5\)"):
        principal_projection(torch.zeros(4, 5))


@pytest.mark.slow
def test_projection_is_100_times_faster_than_grad_cams_in_this_process() -> None:
    features = torch.randn(1, 256, 80, 80, generator=torch.Generator().manual_seed(0))
    principal_projection(features)
    ours = []
    for _ in range(3):
        start = time.perf_counter()
        principal_projection(features)
        ours.append(time.perf_counter() - start)
    start = time.perf_counter()
    theirs = get_2d_projection(features.numpy())
    ratio = (time.perf_counter() - start) / min(ours)
    assert ratio > 100
    assert abs(_correlation(principal_projection(features).numpy(), theirs)) > 0.999


@pytest.mark.parametrize("layer", ["backbone.blocks.0", "backbone.blocks.2"])
def test_agrees_with_grad_cam_on_a_layer(layer: str) -> None:
    """grad-cam clips and stretches its map; what is left of it is ours or its negative, its sign being arbitrary."""
    detector, image = detxai.wrap(small_faster_rcnn()), photo(1)
    view = GradCamView(detector, image, layer)
    with PeerEigenCAM(view, view.target_layers) as cam:
        (theirs,) = cam(view.input_tensor, targets=[lambda output: output.class_scores.sum()])
    level = detector.features(image, layer).levels[layer]
    projection = principal_projection(level)[0].numpy()
    height, width = theirs.shape
    import cv2

    both = [np.maximum(sign * projection, 0) for sign in (1, -1)]
    stretched = [cv2.resize((m - m.min()) / (m.max() - m.min()), (width, height)) for m in both]
    assert max(_correlation(m, theirs) for m in stretched) > 0.999


def test_agrees_with_grad_cam_on_the_pyramid_through_the_reshape_transform() -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), photo(1)
    features = detector.features(image)
    pyramid = {name.partition(":")[2]: level for name, level in features.levels.items()}
    ours = principal_projection(fpn_reshape_transform(pyramid))[0].numpy()
    theirs = get_2d_projection(fpn_reshape_transform(pyramid).numpy())[0]
    assert abs(_correlation(ours, theirs)) > 0.999
    (joint,) = EigenCAM(reshape_transform=fpn_reshape_transform)(detector, image)
    geometry = features.inputs.geometries[0]
    inside = principal_projection(fpn_reshape_transform(pyramid), geometry.cells_of_image(ours.shape))[0]
    assert _correlation(joint.values, geometry.map_to_image(inside).numpy()) > 0.999999


def test_one_explanation_for_the_image_in_its_own_pixels() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    (explanation,) = EigenCAM()(detector, photo(0, 77, 131))
    assert explanation.values.shape == (77, 131)
    assert explanation.values.dtype == np.float32
    assert explanation.detection is None
    assert "no box" in explanation.caption
    assert 0 <= explanation.heatmap.min() <= explanation.heatmap.max() == 1
    assert explanation.cost.forward_passes == 1


def test_a_batch_of_images_is_each_image_alone() -> None:
    detector = detxai.wrap(small_faster_rcnn(min_size=96, max_size=96))
    images = [photo(seed, 96, 96) for seed in range(3)]
    for together, image in zip(EigenCAM().batch(detector, images), images):
        np.testing.assert_allclose(together.values, EigenCAM()(detector, image)[0].values, atol=1e-4)


@pytest.mark.parametrize("kind", ["faster_rcnn", "yolo"])
def test_a_batch_of_several_sizes_is_each_image_alone(kind: str) -> None:
    if kind == "yolo":
        pytest.importorskip("ultralytics")
    detector = detxai.wrap(small_faster_rcnn()) if kind == "faster_rcnn" else detxai.wrap("scenes-yolo")
    images = [photo(0, 60, 120), photo(1, 120, 60), photo(2, 60, 120), photo(3, 90, 90)]
    together = EigenCAM().batch(detector, images)
    for explanation, image in zip(together, images, strict=True):
        assert explanation.values.shape == image.shape[1:]
        np.testing.assert_allclose(explanation.values, EigenCAM()(detector, image)[0].values, atol=1e-4)
    assert together[0].cost.forward_passes == 3


@pytest.mark.parametrize("channels", [3, 60])
def test_places_that_do_not_count_change_nothing_where_the_others_are(channels: int) -> None:
    """Whatever stands in the padding: the map inside is that of the inside alone."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(2, channels, 5, 8, generator=g, dtype=torch.float64)
    inside = torch.zeros(5, 8, dtype=torch.bool)
    inside[:, 1:6] = True
    features[..., ~inside] *= 50
    alone = principal_projection(features[..., 1:6])
    torch.testing.assert_close(principal_projection(features, inside)[..., 1:6], alone, atol=1e-9, rtol=0)
    assert not torch.allclose(principal_projection(features)[..., 1:6], alone, atol=0.1)


def test_the_same_map_every_time() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    maps = [EigenCAM()(detector, photo(2))[0].values for _ in range(3)]
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_has_the_map_of_the_full_one(dtype: torch.dtype) -> None:
    pytest.importorskip("ultralytics")
    detector, image = detxai.wrap("scenes-yolo"), photo(2, 96, 128)
    network: Any = detector.network
    full = EigenCAM()(detector, image)[0].values
    half = EigenCAM()(detxai.wrap(network.to(dtype)), image)[0].values
    assert half.dtype == np.float32
    assert np.corrcoef(half.flatten(), full.flatten())[0, 1] > 0.95
