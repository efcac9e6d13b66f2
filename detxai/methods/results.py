"""What a method returns: one explanation for each box, or one for the image, with the cost and settings recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.detections import Detections
from detxai.explanation import Cost, Explanation, settings_of


def explanations(
    method: Any,
    detector: Detector,
    inputs: Inputs,
    detections: Detections | None,
    values: Sequence[Tensor] | Tensor,
    *,
    started: float,
    passes: int,
    layers: Sequence[str] | None = None,
    details: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    standard_errors: Sequence[Tensor | None] | Tensor | None = None,
    channel_effects: Tensor | None = None,
    partial: bool = False,
) -> list[Explanation]:
    """The maps of one image as explanations.

    Args:
        method: whose ``name`` and settings are recorded.
        detector: what was explained.
        inputs: the image explained, prepared.
        detections: T boxes; None where the method asks about no box: then there is one map, of the image.
        values: T maps (H, W).
        started: ``time.perf_counter()`` when the call began.
        passes: through the network or its tail, for all maps together.
        layers: the layers or levels read, if any.
        details: what is recorded of each box, or of all alike.
        settings: recorded in the place of the method's own fields.
        standard_errors: of the maps; None where they are not random.
        channel_effects: (T, C).
        partial: whether the work was interrupted.
    """
    boxes: list[Detections | None] = [None] if detections is None else list(detections)
    cost = Cost(time.perf_counter() - started, passes)
    model = detector.describe() if layers is None else {**detector.describe(), "layers": list(layers)}
    each = [details or {}] * len(boxes) if details is None or isinstance(details, Mapping) else details
    errors = [None] * len(boxes) if standard_errors is None else standard_errors
    return [
        Explanation(
            _as_array(values[i]),
            inputs.images[0],
            method.name,
            settings_of(method) if settings is None else settings,
            cost,
            boxes[i],
            None if channel_effects is None else channel_effects[i].cpu(),
            model,
            None if (error := errors[i]) is None else _as_array(error),
            partial,
            each[i],
        )
        for i in range(len(boxes))
    ]


def _as_array(map_: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = torch.as_tensor(map_).detach().cpu().numpy()
    return array
