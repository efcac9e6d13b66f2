"""FORGrad's filter: a map without its high spatial frequencies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

ROUNDING = 1e-9  # a component of exactly sigma cycles is kept, whatever the division by a side left behind


def low_pass(values: npt.NDArray[np.floating[Any]], sigma: float) -> npt.NDArray[np.floating[Any]]:
    """Maps without the frequencies above ``sigma``.

    ``F^-1(w F(values))`` with F the discrete Fourier transform and w 1 for frequencies of up to ``sigma`` cycles per
    image side, 0 above. The filter is round, so that no direction is favoured; in an image that is not square the
    longer side counts. The transform takes maps to repeat beyond their edges, as the paper's does: what lies at one
    edge reaches round to the other.

    Args:
        values: (..., H, W), signed.
        sigma: from 0, where nothing is left, not even the mean: a map of zeros. Above 0 the mean stays. From 0.71 times
            the longer side on, no frequency is higher, and the maps come back as they are.

    Returns:
        (..., H, W), of the same type.

    Raises:
        ValueError: ``sigma`` is below 0 or no number; ``values`` are not (..., H, W).
        TypeError: ``sigma`` is of another type.

    Source: Muzellec et al., 2024, FORGrad (ICML; arXiv 2307.09591), with the round filter of Xplique's ``forgrad``.
    Differs in that maps keep their signs: Xplique filters absolute values and takes them again of the result.

    >>> low_pass(np.array([[1.0, 3.0, 1.0, 3.0]]), 1).tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """
    check_sigma("sigma", sigma)
    values = np.asarray(values)
    if values.ndim < 2:
        raise ValueError(f"values must have shape (..., H, W), got {values.shape}")
    kept = (frequencies(values.shape[-2], values.shape[-1]) <= sigma * (1 + ROUNDING)) & (sigma > 0)
    if kept.all():
        return values.copy()
    spectrum = np.fft.fft2(values.astype(np.float64))
    return np.asarray(np.fft.ifft2(np.where(kept, spectrum, 0)).real, dtype=values.dtype)


def frequencies(height: int, width: int) -> npt.NDArray[np.float64]:
    """(H, W) how many cycles the longer side has of each component of a transform, in the order of ``np.fft``."""
    down, across = np.fft.fftfreq(height), np.fft.fftfreq(width)
    return np.asarray(max(height, width) * np.hypot(down[:, None], across[None, :]))


def check_sigma(name: str, sigma: object) -> None:
    """Raise where ``sigma``, an argument that goes under ``name``, is no finite number from 0."""
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
        raise TypeError(f"{name} must be a number of cycles per image side, got {sigma!r}")
    if not 0 <= sigma < math.inf:
        raise ValueError(f"{name} must be a finite number of cycles per image side, from 0, got {sigma!r}")
