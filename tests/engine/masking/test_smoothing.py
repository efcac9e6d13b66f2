"""Maps smoothed by a Gaussian: a mean, weighted as OpenCV weighs, over the neighbours that are there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from detxai.engine.masking.soft.smoothing import smoothed


@pytest.mark.parametrize("deviations", [(1.5, 1.5), (4.0, 9.0)])
def test_it_is_the_gaussian_mean_of_the_neighbours_within_the_map(deviations: tuple[float, float]) -> None:
    maps = torch.rand(2, 3, 24, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taps = [2 * round(8 * deviation) + 1 for deviation in deviations]
    kernels = [cv2.getGaussianKernel(n, deviation) for n, deviation in zip(taps, deviations)]
    there = cv2.sepFilter2D(np.ones((24, 31)), -1, kernels[1], kernels[0], borderType=cv2.BORDER_CONSTANT)
    for found, one in zip(smoothed(maps, deviations).flatten(0, 1), maps.flatten(0, 1)):
        summed = cv2.sepFilter2D(one.numpy(), -1, kernels[1], kernels[0], borderType=cv2.BORDER_CONSTANT)
        np.testing.assert_allclose(found, summed / there, atol=1e-9)


def test_what_is_flat_stays_flat_and_a_point_spreads_evenly() -> None:
    torch.testing.assert_close(smoothed(torch.full((1, 5, 3), 7.0), (20.0, 20.0)), torch.full((1, 5, 3), 7.0))
    point = torch.zeros(41, 41)
    point[20, 20] = 1
    spread = smoothed(point, (3.0, 3.0))
    torch.testing.assert_close(spread, spread.T)
    torch.testing.assert_close(spread, spread.flip(0))
    assert float(spread[20, 23] / spread[20, 20]) == pytest.approx(float(np.exp(-0.5)), rel=1e-3)


def test_a_map_of_one_pixel_is_its_own_mean() -> None:
    assert smoothed(torch.tensor([[3.0]]), (1.5, 1.5)).tolist() == [[3.0]]
