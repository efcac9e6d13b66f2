"""The channels that keep a typical box of each class: what a newcomer to a detector sees of how it decides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.adapters.network import NetworkDetector
from detxai.concepts.channels.sufficient import sufficient_channels
from detxai.detections import Detections


def kept_channels(
    detector: NetworkDetector, image: npt.NDArray[np.uint8], record: Mapping[str, Any], layers: tuple[str, ...] | None
) -> dict[str, Any]:
    """A minimal sufficient set of channels for the box of a record: ``SufficientChannels`` as JSON can hold it.

    Args:
        detector: a network.
        image: (H, W, 3) uint8, of the record.
        record: of ``box_records``.
        layers: as in ``Search``.

    Raises:
        ValueError: the box has no score.
    """
    box = Detections([record["box"]], [record["score"]], [record["label"]], detector.class_names)
    return sufficient_channels(detector, image, box, layers, progress=False).as_json()


def key_of(record: Mapping[str, Any]) -> str:
    """Names a box, so that the channels of another are not taken for its own."""
    box = [record["image"], record["photo"], record["box"], record["label"]]
    return hashlib.sha256(json.dumps(box).encode()).hexdigest()[:16]
