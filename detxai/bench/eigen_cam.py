"""Eigen-CAM side by side in one process: our projection and grad-cam's, on the same features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detxai.adapters.detector import Detector
from detxai.adapters.network import require_network
from detxai.images import Image
from detxai.methods.eigen_cam import principal_projection

REPEATS = 5


@dataclass(frozen=True)
class Projection:
    """One level's features projected onto their first component, by both.

    Attributes:
        level: its name.
        shape: (channels, height, width).
        seconds: ours, the least of several.
        peer_seconds: grad-cam's, once: it takes seconds.
        correlation: of the two maps, whatever their sign.
    """

    level: str
    shape: tuple[int, int, int]
    seconds: float
    peer_seconds: float
    correlation: float

    @property
    def ratio(self) -> float:
        return self.peer_seconds / self.seconds


def bench_eigen_cam(detector: Detector, image: Image) -> list[Projection]:
    """Every level of the adapter's default layers, projected by both."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection  # heavy, and only a peer

    found = []
    for name, level in require_network(detector).features(image).levels.items():
        taken = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            ours = principal_projection(level).cpu().numpy()
            taken.append(time.perf_counter() - start)
        start = time.perf_counter()
        theirs = get_2d_projection(level.float().cpu().numpy())
        peer = time.perf_counter() - start
        correlation = abs(float(np.corrcoef(ours.ravel(), np.asarray(theirs).ravel())[0, 1]))
        channels, height, width = level.shape[1:]
        found.append(Projection(name, (channels, height, width), min(taken), peer, correlation))
    return found


def as_projection_table(projections: Sequence[Projection]) -> str:
    """The projections, aligned for a terminal."""
    width = max(len(one.level) for one in projections)
    rows = [f"{'':{width}}  {'features':>14}  ours ms  grad-cam ms   ratio  |corr|"]
    for one in projections:
        shape = " x ".join(map(str, one.shape))
        times = f"{one.seconds * 1e3:7.1f}  {one.peer_seconds * 1e3:11.0f}  {one.ratio:6.0f}"
        rows.append(f"{one.level:{width}}  {shape:>14}  {times}  {one.correlation:.4f}")
    return "\n".join(rows)
