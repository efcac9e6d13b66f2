"""grad-cam's methods that ask no question of a box: what stands out among the features of the image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector, Features
from detxai.adapters.network import require_network
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image
from detxai.methods.from_grad_cam.formulas import as_array, formula_of, join_levels

Kernel = Literal["sigmoid", "rbf", "poly", "cosine", "linear"]
SEED = 0  # of the eigenvalue solver's first guess, so that one image has one map


@dataclass(frozen=True)
class FEM:
    """Feature explanation method: each channel weighed by how many of its places stand out.

    ``sum_c w_c A_c``, w_c the share of places where the channel exceeds its mean by k standard deviations. ``values``
    is that map as grad-cam's formula gives it, brought to the image; several levels: see ``join_levels``.

    It asks no question of a box: the map is of the image, the same for every detection and class.

    Args:
        layers: names of the layers; default: the adapter's.
        k: from 0.

    Source: Fuad et al., 2020 (IPTA), by grad-cam's ``FEM``.
    """

    name: ClassVar[str] = "fem"
    asks_about_boxes: ClassVar[bool] = False
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass for the image"

    layers: Sequence[str] | str | None = None
    k: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.k < float("inf"):
            raise ValueError(f"k must be a number from 0, got {self.k!r}")

    @in_full_precision
    def __call__(self, detector: Detector, image: Image) -> Explanation:
        """One explanation for the image.

        Raises:
            LookupError: a layer is unknown.
            TypeError: the detector is a plain function, without a network.
            ImportError: grad-cam is missing, or too old to have the method.
        """
        detector = require_network(detector)
        names = detector.layer_names(self.layers)
        formula = formula_of("FEM", detector.device, k=self.k)
        start = time.perf_counter()
        features = detector.features(image, names)
        maps = [_cells(formula, level) for level in features.levels.values()]
        return _explanation(self, detector, features, maps, start)


@dataclass(frozen=True)
class KPCACAM:
    """KPCA-CAM: the features of a level, projected onto their first *kernel* principal component.

    Eigen-CAM with a kernel between places, so that the component need not be linear in the features. ``values`` is the
    projection as grad-cam's formula gives it, brought to the image; several levels: see ``join_levels``. Its sign is
    chosen so that it goes along with the strength of the features, the norm over channels at each place, as in
    ``eigen_cam``.

    It asks no question of a box: the map is of the image, the same for every detection and class.

    Args:
        layers: names of the layers; default: the adapter's.
        kernel: ``"sigmoid"``, ``"rbf"``, ``"poly"``, ``"cosine"`` or ``"linear"``.
        gamma: of the kernel, above 0; None: 1 / channels.
        max_cells: levels with more places are left out, for the kernel takes a matrix of places x places (0.3 GB for
            the default); ``details["left_out"]`` names them. Where all have more, the image is refused.

    Source: Karmani et al., 2024 (arXiv 2410.00267), by grad-cam's ``KPCA_CAM``. Differs in the sign, which grad-cam
    leaves to the solver and then clips, and in a fixed first guess of the solver.
    """

    name: ClassVar[str] = "kpca_cam"
    asks_about_boxes: ClassVar[bool] = False
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass for the image"

    layers: Sequence[str] | str | None = None
    kernel: Kernel = "sigmoid"
    gamma: float | None = None
    max_cells: int = 6400

    def __post_init__(self) -> None:
        if self.kernel not in get_args(Kernel):
            raise ValueError(f"kernel must be one of {list(get_args(Kernel))}, got {self.kernel!r}")
        if self.gamma is not None and not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma must be a number above 0, or None, got {self.gamma!r}")
        if isinstance(self.max_cells, bool) or not isinstance(self.max_cells, int) or self.max_cells < 1:
            raise ValueError(f"max_cells must be a whole number from 1, got {self.max_cells!r}")

    @in_full_precision
    def __call__(self, detector: Detector, image: Image) -> Explanation:
        """One explanation for the image.

        Raises:
            LookupError: a layer is unknown.
            ValueError: every level has more than ``max_cells`` places.
            TypeError: the detector is a plain function, without a network.
            ImportError: grad-cam is missing, or too old to have the method.
        """
        detector = require_network(detector)
        names = detector.layer_names(self.layers)
        formula = formula_of("KPCA_CAM", detector.device, kernel=self.kernel, gamma=self.gamma)
        start = time.perf_counter()
        features = detector.features(image, names)
        sizes = {name: level.shape[2:].numel() for name, level in features.levels.items()}
        kept = [name for name, size in sizes.items() if size <= self.max_cells]
        if not kept:
            raise ValueError(f"max_cells must reach the size of at least one level, {sizes}; got {self.max_cells}")
        with _own_numpy_randomness():
            maps = [_with_strength(_cells(formula, features.levels[name]), features.levels[name]) for name in kept]
        details = {"left_out": [name for name in sizes if name not in kept]}
        return _explanation(self, detector, features, maps, start, details)


def _cells(formula: Any, level: Tensor) -> Tensor:
    """(h, w) of the features (1, C, h, w), by grad-cam's formula."""
    (cells,) = formula.get_cam_image(None, None, None, as_array(level), None, False)
    return torch.from_numpy(np.asarray(cells))


def _with_strength(projection: Tensor, level: Tensor) -> Tensor:
    """The projection (h, w), or its negative: whichever is high where the features are strong."""
    strength = level[0].norm(dim=0).to(projection)
    return projection if (projection * (strength - strength.mean())).sum() >= 0 else -projection


@contextmanager
def _own_numpy_randomness() -> Iterator[None]:
    """scikit-learn's solver takes its first guess from NumPy's global generator, which is the caller's."""
    state = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(state)


def _explanation(
    method: Any,
    detector: Detector,
    features: Features,
    maps: Sequence[Tensor],
    start: float,
    details: dict[str, Any] | None = None,
) -> Explanation:
    values = join_levels(maps, features.inputs.geometries[0]).numpy()
    cost = Cost(time.perf_counter() - start, forward_passes=1)
    model = {**detector.describe(), "layers": list(features.layers)}
    photo = features.inputs.images[0]
    return Explanation(values, photo, method.name, settings_of(method), cost, model=model, details=details or {})
