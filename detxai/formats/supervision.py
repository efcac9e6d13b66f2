"""supervision's ``Detections``. supervision is imported only to make one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from detxai.detections import ClassNames, Detections
from detxai.formats.checks import class_numbers, expect_type, on_cpu


def from_supervision(detections: Any, class_names: ClassNames | None = None) -> Detections:
    """A ``supervision.Detections`` as detections. Without confidences, as for ground truth, scores are 1.

    Args:
        detections: anything with ``xyxy``, ``confidence``, ``class_id`` and ``data`` as supervision has them.
        class_names: label -> name; default: the names in ``data["class_name"]``, if there are any.

    Raises:
        TypeError: ``detections`` is nothing of the kind.
        ValueError: it has no ``class_id``.
    """
    if not all(hasattr(detections, name) for name in ("xyxy", "confidence", "class_id")):
        raise TypeError(f"detections must be a supervision.Detections, got {type(detections).__name__}")
    boxes = np.asarray(detections.xyxy, dtype=np.float32)
    labels, scores = detections.class_id, detections.confidence
    if labels is None and len(boxes):
        raise ValueError("detections must have class_id, got None: without classes there is nothing to ask about")
    labels = class_numbers("class_id", [] if labels is None else labels)
    if class_names is None:
        named = (getattr(detections, "data", None) or {}).get("class_name", ())
        class_names = dict(zip(labels.tolist(), map(str, named)))
    scores = np.ones(len(boxes), dtype=np.float32) if scores is None else scores
    return Detections(torch.from_numpy(boxes), on_cpu(scores), labels, class_names)


def to_supervision(detections: Detections) -> Any:
    """Detections as a ``supervision.Detections``, with the names in ``data["class_name"]``.

    Raises:
        ImportError: supervision is not installed.
    """
    expect_type(detections, Detections, "detections", "detxai.Detections")
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs supervision: python -m pip install supervision") from error
    return supervision.Detections(
        xyxy=detections.boxes.cpu().numpy(),
        confidence=detections.scores.cpu().numpy(),
        class_id=detections.labels.cpu().numpy(),
        data={"class_name": np.array([detections.name(i) for i in range(len(detections))], dtype=str)},
    )
