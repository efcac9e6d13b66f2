"""What an image is compared with: an image in which the object is not to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.engine.masking.canvas import Filling, filling_image
from detxai.images import load_image

Baseline: TypeAlias = Filling | Sequence[float] | PIL.Image.Image | npt.NDArray[np.uint8] | Tensor


def baseline_tensor(detector: Detector, clean: Inputs, baseline: Baseline, seed: int = 0) -> Tensor:
    """(1, 3, h, w) the baseline of one image, prepared as the image is.

    Raises:
        ValueError: an image of another size, or no such filling.
    """
    original, given = clean.images[0], cast(Any, baseline)
    if not _is_image(baseline):
        return detector.prepare(filling_image(original, given, seed)).tensor
    array = load_image(given)
    if array.shape != original.shape:
        raise ValueError(
            f"baseline must have the image's {original.shape[1]} x {original.shape[0]} pixels, "
            f"got {array.shape[1]} x {array.shape[0]}"
        )
    return detector.prepare(given).tensor


def check_baseline(baseline: object, name: str = "baseline") -> None:
    """Raise where ``baseline`` is neither a filling, nor a colour, nor an image."""
    if _is_image(baseline):
        load_image(baseline)
        return
    try:
        if not isinstance(baseline, (str, list, tuple)):
            raise ValueError(f"got {type(baseline).__name__}")
        filling_image(np.zeros((1, 1, 3), dtype=np.uint8), baseline)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be 'black', 'mean', 'blur', 'noise', an RGB colour in [0, 1] or an image, got {baseline!r}"
        ) from None


def _is_image(baseline: Any) -> bool:
    return isinstance(baseline, (PIL.Image.Image, np.ndarray, Tensor))
