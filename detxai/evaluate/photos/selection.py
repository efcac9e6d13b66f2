"""Which images, and which of their detections, every method explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detxai.detections import Detections
from detxai.evaluate.photos.photo import Photo, Truth


@dataclass(frozen=True, eq=False)
class EvaluatedDetections:
    """The detections of one image that are measured.

    Attributes:
        number: of the image among the photos.
        photo: the image.
        detections: of length T.
        places: (T,) their places among all that the detector reports for the image.
        object_of: (T,) the annotated object that each is of; -1: none.
        content: fingerprint of the image and of what is known of it.
    """

    number: int
    photo: Photo
    detections: Detections
    places: tuple[int, ...]
    object_of: tuple[int, ...]
    content: str = ""

    def known(self, truth: Truth, places: Sequence[int]) -> dict[str, object]:
        """What a ``Case`` of the detections at these places may be told."""
        owners = [self.object_of[place] for place in places]
        known: dict[str, object] = {"objects": truth.objects, "object_of": torch.tensor(owners)}
        if truth.evidence is not None and truth.causes is not None:
            nowhere = torch.zeros(truth.evidence.shape[1:], dtype=torch.bool)
            known["evidence"] = torch.stack([truth.evidence[owner] if owner >= 0 else nowhere for owner in owners])
            known["causes"] = [truth.causes[owner] if owner >= 0 else nowhere.expand(0, -1, -1) for owner in owners]
        return known


def draw_detections(eligible: Mapping[int, Sequence[int]], n: int | None, seed: int) -> dict[int, list[int]]:
    """A seeded sample of ``n`` detections, each as likely as any other, over all images; all where ``n`` is None.

    Args:
        eligible: number of the image -> places of the detections that may be drawn.
        n: how many.
        seed: of the draw.

    >>> draw_detections({0: [0, 1], 4: [2]}, None, seed=0)
    {0: [0, 1], 4: [2]}
    """
    everything = [(number, place) for number, places in eligible.items() for place in places]
    if n is not None and n < len(everything):
        chosen = np.random.default_rng(seed).choice(len(everything), size=n, replace=False)
        everything = [everything[i] for i in sorted(chosen.tolist())]
    drawn: dict[int, list[int]] = {}
    for number, place in everything:
        drawn.setdefault(number, []).append(place)
    return drawn


def draw_photos(photos: Sequence[Photo], n: int | None, seed: int) -> list[Photo]:
    """A seeded sample of ``n`` of the photos, in their order; all where ``n`` is None."""
    if n is None or n >= len(photos):
        return list(photos)
    chosen = np.random.default_rng(seed).choice(len(photos), size=n, replace=False)
    return [photos[i] for i in sorted(chosen.tolist())]
