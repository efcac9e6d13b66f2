"""Stability: whether the map stays the same on a slightly different image, or with another seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.engine.rank_correlation import rank_correlation
from detxai.methods.checks import check_count, check_fraction
from detxai.metrics.inputs.case import Case, Quantity


@dataclass(frozen=True)
class Stability:
    """How well the map agrees with itself when it is made again.

    It is made again on images with a little noise, and with other seeds, always for the detections of the clean image.
    ``*_correlation`` is the mean rank correlation, ``*_sensitivity`` the largest relative change of the map (Euclidean
    norm over all pixels). A method that draws nothing at random has 1 and 0 for seeds. Needs ``Case.redo``.

    Args:
        n_repeats: how many times each.
        noise: standard deviation of the noise, as a share of the full range of a pixel.
        seed: of the noise, and the first of the other seeds.

    Raises:
        ValueError: a setting is wrong.

    Source: Yeh et al., 2019, On the (in)fidelity and sensitivity of explanations (NeurIPS), max-sensitivity.
    Differs in normal noise, not uniform in a ball, and in dividing by the norm of the map.
    """

    name: ClassVar[str] = "stability"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "noise_correlation": Quantity("rank correlation of the map under noise", -1, 1, "higher", 0.0),
        "noise_sensitivity": Quantity("largest relative change of the map under noise", 0, float("inf"), "lower"),
        "seed_correlation": Quantity("rank correlation of the map under other seeds", -1, 1, "higher", 0.0),
        "seed_sensitivity": Quantity("largest relative change of the map under other seeds", 0, float("inf"), "lower"),
    }

    n_repeats: int = 3
    noise: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("n_repeats", self.n_repeats, 1)
        check_fraction("noise", self.noise, "[0, 1]")

    def __call__(self, case: Case) -> dict[str, Tensor]:
        if case.redo is None or not len(case):
            return {name: torch.full((len(case),), torch.nan, device=case.maps.device) for name in self.quantities}
        # the noisy images keep the method's first seed: one thing is changed at a time
        noisy = [redone(case, image, 0) for image in self._noisy(case.image)]
        seeded = [redone(case, case.image, self.seed + 1 + repeat) for repeat in range(self.n_repeats)]
        return {
            "noise_correlation": torch.stack([rank_correlation(case.maps, maps) for maps in noisy]).mean(0),
            "noise_sensitivity": torch.stack([relative_change(case.maps, maps) for maps in noisy]).amax(0),
            "seed_correlation": torch.stack([rank_correlation(case.maps, maps) for maps in seeded]).mean(0),
            "seed_sensitivity": torch.stack([relative_change(case.maps, maps) for maps in seeded]).amax(0),
        }

    def _noisy(self, image: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
        random = np.random.default_rng(self.seed)
        for _ in range(self.n_repeats):
            noise = 255 * self.noise * random.standard_normal(image.shape)
            yield (image + noise).round().clip(0, 255).astype(np.uint8)


def redone(case: Case, image: npt.NDArray[np.uint8], seed: int) -> Tensor:
    """The maps (T, H, W) that the case's method makes again, on the detector's device.

    Raises:
        ValueError: there is no ``redo``; what it gives has another shape, or is not finite.
    """
    if case.redo is None:
        raise ValueError("redo must be given where a method is to be run again, got None")
    maps = torch.as_tensor(case.redo(case.detector, image, seed)).detach().to(case.maps)
    if maps.shape != case.maps.shape:
        raise ValueError(f"redo must return maps of shape {tuple(case.maps.shape)}, got {tuple(maps.shape)}")
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("redo must return finite maps, got NaN or infinity")
    return maps


def relative_change(first: Tensor, second: Tensor) -> Tensor:
    """Norm of the difference of paired maps over the norm of the first; NaN where that is 0.

    Args:
        first, second: (T, H, W) raw.

    Returns:
        (T,) from 0.

    >>> relative_change(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[3.0, 5.0]]]))
    tensor([0.2000])
    """
    size = first.flatten(1).norm(dim=1)
    return (second - first).flatten(1).norm(dim=1) / torch.where(size > 0, size, torch.nan)
