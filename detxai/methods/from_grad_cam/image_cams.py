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
from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_choice, check_count, check_number
from detxai.methods.from_grad_cam.formulas import as_array, formula_of, join_levels
from detxai.methods.results import explanations

Kernel = Literal["sigmoid", "rbf", "poly", "cosine", "linear"]
SEED = 0  # of the eigenvalue solver's first guess, so that one image has one map


@dataclass(frozen=True)
class FEM:
    """Feature explanation method: each channel weighed by how many of its places stand out.

    ``sum_c w_c A_c``, w_c the share of places where the channel exceeds its mean by k standard deviations. ``values``
    is that map as grad-cam's formula gives it, brought to the image; several levels: see ``join_levels``.

    It asks no question of a box: the map is of the image, the same for every detection and class.

    Args:
        layers: names of the layers; default: those that the adapter chooses.
        k: from 0, how many standard deviations above its mean a place must lie to stand out.

    Source: Fuad et al., 2020 (IPTA), by grad-cam's ``FEM``.
    """

    name: ClassVar[str] = "fem"
    asks_about_boxes: ClassVar[bool] = False
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass for the image"

    layers: Sequence[str] | str | None = None
    k: float = 2.0

    def __post_init__(self) -> None:
        check_number("k", self.k)

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections | None = None) -> list[Explanation]:
        """One explanation, of the image; ``detections`` change nothing.

        Raises:
            LookupError: a layer is unknown.
            TypeError: the detector is a plain function, without a network.
            ImportError: grad-cam is missing, or too old to have the method.
        """
        detector = require_network(detector)
        names = detector.layer_names(self.layers)
        formula = formula_of("FEM", detector.device, k=self.k)
        started = time.perf_counter()
        features = detector.features(image, names)
        maps = [_cells(formula, level) for level in features.levels.values()]
        return _explained(self, detector, features, maps, started)


@dataclass(frozen=True)
class KPCACAM:
    """KPCA-CAM: the features of a level, projected onto their first *kernel* principal component.

    Eigen-CAM with a kernel between places, so that the component need not be linear in the features. ``values`` is the
    projection as grad-cam's formula gives it, brought to the image; several levels: see ``join_levels``. Its sign is
    chosen so that it goes along with the strength of the features, the norm over channels at each place, as in
    ``eigen_cam``.

    It asks no question of a box: the map is of the image, the same for every detection and class.

    Args:
        layers: names of the layers; default: those that the adapter chooses.
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
        check_choice("kernel", self.kernel, get_args(Kernel))
        if self.gamma is not None:
            check_number("gamma", self.gamma, above=0)
        check_count("max_cells", self.max_cells, 1)

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections | None = None) -> list[Explanation]:
        """One explanation, of the image; ``detections`` change nothing.

        Raises:
            LookupError: a layer is unknown.
            ValueError: every level has more than ``max_cells`` places.
            TypeError: the detector is a plain function, without a network.
            ImportError: grad-cam is missing, or too old to have the method.
        """
        detector = require_network(detector)
        names = detector.layer_names(self.layers)
        formula = formula_of("KPCA_CAM", detector.device, kernel=self.kernel, gamma=self.gamma)
        started = time.perf_counter()
        features = detector.features(image, names)
        sizes = {name: level.shape[2:].numel() for name, level in features.levels.items()}
        kept = [name for name, size in sizes.items() if size <= self.max_cells]
        if not kept:
            raise ValueError(f"max_cells must reach the size of at least one level, {sizes}; got {self.max_cells}")
        with _own_numpy_randomness():
            maps = [_with_strength(_cells(formula, features.levels[name]), features.levels[name]) for name in kept]
        details = {"left_out": [name for name in sizes if name not in kept]}
        return _explained(self, detector, features, maps, started, details)


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


def _explained(
    method: FEM | KPCACAM,
    detector: Detector,
    features: Features,
    maps: Sequence[Tensor],
    started: float,
    details: dict[str, Any] | None = None,
) -> list[Explanation]:
    values = join_levels(maps, features.inputs.geometries[0])
    return explanations(
        method, detector, features.inputs, None, [values],
        started=started, passes=1, layers=features.layers, details=details,
    )  # fmt: skip
