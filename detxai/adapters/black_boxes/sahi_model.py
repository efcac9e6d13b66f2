"""SAHI's detection models, whichever vendor's network they hold, as black boxes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.adapters.black_boxes.function import FunctionAdapter
from detxai.detections import Detections
from detxai.formats import from_sahi
from detxai.images import Image

_LOCK = threading.RLock()  # a SAHI model keeps its predictions as attributes until they are read
MIN_SCORE = 0.01  # of a candidate: a box that the model drops cannot be seen to weaken


def is_sahi_model(model: object) -> bool:
    """True for objects of ``sahi.models.base.DetectionModel`` and its subclasses; imports nothing."""
    return any(
        (kind.__module__, kind.__name__) == ("sahi.models.base", "DetectionModel") for kind in type(model).__mro__
    )


@dataclass(eq=False)
class SahiPrediction:
    """A function from uint8 (H, W, 3) RGB arrays to a SAHI model's detections in each.

    The SAHI model's attributes are restored afterwards; those of the vendor's model inside are not.

    Attributes:
        model: the SAHI model, its weights loaded.
        score_threshold: the model's ``confidence_threshold`` during the call.
    """

    model: Any
    score_threshold: float = MIN_SCORE

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        with _LOCK, _attributes_kept(self.model):
            self.model.confidence_threshold = self.score_threshold
            # a batch of several sizes is padded, which changes the detections
            if hasattr(self.model, "perform_batch_inference") and len({image.shape for image in images}) == 1:
                return self._predicted(images)
            return [self._predicted_alone(image) for image in images]

    def _predicted(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        self.model.perform_batch_inference(list(images))
        sizes = [list(image.shape[:2]) for image in images]
        self.model.convert_original_predictions(shift_amount=[[0, 0] for _ in images], full_shape=sizes)
        return [from_sahi(found) for found in self.model.object_prediction_list_per_image]

    def _predicted_alone(self, image: npt.NDArray[np.uint8]) -> Detections:
        self.model.perform_inference(image)
        self.model.convert_original_predictions(shift_amount=[0, 0], full_shape=list(image.shape[:2]))
        return from_sahi(self.model.object_prediction_list)


class SahiAdapter(FunctionAdapter):
    """A SAHI detection model, as ``AutoDetectionModel.from_pretrained`` loads it.

    ``detect`` returns what ``sahi.predict.get_prediction`` does at that score threshold. Candidates have scores from
    0.01, whatever the model's ``confidence_threshold``. For its sliced prediction give ``slices`` to ``detxai.wrap``.
    CAMs need the network inside: wrap the vendor's own model instead, where detxai knows it.

    Args:
        model: the SAHI model, its weights loaded.
        class_names: label -> name; default: the model's ``category_mapping``.

    Raises:
        ValueError: its weights are not loaded.
    """

    family = "sahi"
    what_it_is = "a SAHI model, whose answers alone are known"
    function: SahiPrediction

    def __init__(self, model: Any, *, class_names: Mapping[int, str] | Sequence[str] | None = None) -> None:
        if model.model is None:
            raise ValueError(f"model: this {type(model).__name__} holds no network yet; call its load_model() first")
        names = _category_names(model) if class_names is None else class_names
        super().__init__(SahiPrediction(model), class_names=names)

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        above = FunctionAdapter(SahiPrediction(self.function.model, score_threshold), class_names=self.class_names)
        return above.detect(image, score_threshold)

    @property
    def model_name(self) -> str:
        kind = type(self.function.model)
        return f"{kind.__module__}.{kind.__qualname__}"


def _category_names(model: Any) -> dict[int, str]:
    """Label -> name, where the model's categories keep their numbers."""
    if model.category_remapping or not model.category_mapping:
        return {}
    return {int(label): str(name) for label, name in model.category_mapping.items()}


@contextmanager
def _attributes_kept(model: Any) -> Iterator[None]:
    own = dict(vars(model))
    try:
        yield
    finally:
        vars(model).clear()
        vars(model).update(own)
