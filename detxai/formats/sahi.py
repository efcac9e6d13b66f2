"""What SAHI predicts. Nothing of it is imported."""

from __future__ import annotations

from typing import Any

from detxai.detections import Detections


def from_sahi(result: Any) -> Detections:
    """What SAHI predicts for one image, sliced or not, as detections.

    Args:
        result: a ``PredictionResult``, such as ``sahi.predict.get_sliced_prediction`` returns, or a list of its
            ``ObjectPrediction``. Of masks and rotated boxes, the upright boxes around them are taken.

    Raises:
        TypeError: it is neither.
    """
    found = getattr(result, "object_prediction_list", result)
    if not isinstance(found, (list, tuple)) or not all(_is_sahi_prediction(one) for one in found):
        raise TypeError(f"result must be a SAHI PredictionResult or ObjectPredictions, got {type(result).__name__}")
    moved = [one.bbox.get_shifted_box() if any(one.bbox.shift_amount) else one.bbox for one in found]
    names = {int(one.category.id): str(one.category.name) for one in found}
    scores = [float(one.score.value) for one in found]
    return Detections([box.to_xyxy() for box in moved], scores, [int(one.category.id) for one in found], names)


def _is_sahi_prediction(one: Any) -> bool:
    return all(hasattr(one, name) for name in ("bbox", "category", "score")) and hasattr(one.bbox, "get_shifted_box")
