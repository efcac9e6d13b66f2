"""An image that can be measured on, and what is known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detxai.metrics.inputs.case import Objects

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one image.

    Attributes:
        objects: what is annotated in it, of classes that the detector has.
        evidence: (G, H, W) bool, for each object the pixels that decide; None where nobody knows.
        causes: for each object (n, H, W) bool, the parts of its evidence; None likewise.
    """

    objects: Objects
    evidence: Tensor | None = None
    causes: Sequence[Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Photo:
    """An image that can be measured on, not read yet.

    Attributes:
        name: its file name, or what stands for one.
        load: gives its pixels, uint8 (H, W, 3) RGB, and what is known of it.
        kind: the kind of scene; empty for a photo.
    """

    name: str
    load: Callable[[], tuple[Pixels, Truth]]
    kind: str = ""


def fingerprint(image: Pixels, truth: Truth) -> str:
    """What an image shows and what is known of it, as a SHA-256: what is measured of another image is not of this."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    objects = truth.objects
    for known in (objects.boxes, objects.labels, objects.masks, truth.evidence, *(truth.causes or ())):
        array = None if known is None else known.cpu().numpy()
        digest.update(b"nothing" if array is None else f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
