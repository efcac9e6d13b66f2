"""Structural similarity: do two heatmaps look alike?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.engine.rank_correlation import in_parts
from detxai.metrics.inputs.maps import heatmaps

SIGMA, RADIUS = 1.5, 5  # the paper's window, 11 pixels wide
STEADY = (0.01**2, 0.03**2)  # the paper's constants, for values in [0, 1]


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of paired heatmaps, averaged over all places where the window lies within the map.

    Maps narrower than the window are compared by the whole window that fits.

    Args:
        first, second: (T, H, W) raw; compared by their heat, the positive part over its maximum.

    Returns:
        (T,) in [-1, 1]; 1 for equal heatmaps.

    Source: Wang et al., 2004, Image quality assessment (IEEE TIP), equation 13, with its Gaussian window.

    >>> map_ = torch.arange(144.0).view(1, 12, 12)
    >>> structural_similarity(map_, 2 * map_)
    tensor([1.])
    """
    return in_parts(_structural_similarity, first, second)


def _structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    x, y = heatmaps(first)[:, None], heatmaps(second)[:, None]
    across = [_window(min(RADIUS, (n - 1) // 2)).to(x) for n in x.shape[-2:]]
    moments = torch.cat([x, y, x * x, y * y, x * y], 1)
    kernels = (across[0][:, None], across[1][None, :])
    for kernel in kernels:
        moments = F.conv2d(moments, kernel.expand(5, 1, -1, -1), groups=5)
    mean_x, mean_y, xx, yy, xy = moments.unbind(1)
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    alike = (2 * mean_x * mean_y + STEADY[0]) * (2 * covariance + STEADY[1])
    apart = (mean_x**2 + mean_y**2 + STEADY[0]) * (variance_x + variance_y + STEADY[1])
    return (alike / apart).mean((1, 2))


def _window(radius: int) -> Tensor:
    weights = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * SIGMA**2))
    return weights / weights.sum()
