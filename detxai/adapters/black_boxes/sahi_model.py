"""SAHI's detection models, whosever network is inside, as detectors of which the answers alone are known."""

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

_ONE_AT_A_TIME = threading.RLock()  # a SAHI model keeps what it predicted on itself until it is read
LOWEST = 0.01  # score of a candidate: what the model leaves out, no view can be seen to weaken


def is_sahi_model(model: object) -> bool:
    """True for ``sahi.models.base.DetectionModel`` and what comes of it; imports nothing."""
    return any(
        (kind.__module__, kind.__name__) == ("sahi.models.base", "DetectionModel") for kind in type(model).__mro__
    )


@dataclass(eq=False)
class SahiDetector:
    """From uint8 (H, W, 3) RGB arrays to what a SAHI model predicts in each, by its own calls.

    The model's attributes are put back afterwards; what its vendor's model keeps of a prediction stays with that.

    Attributes:
        model: the SAHI model, its weights loaded.
        score_threshold: the model's ``confidence_threshold`` meanwhile.
    """

    model: Any
    score_threshold: float = LOWEST

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        with _ONE_AT_A_TIME, _attributes_kept(self.model):
            self.model.confidence_threshold = self.score_threshold
            # a batch of several sizes is padded, and answers otherwise than its images do
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

    ``detect`` gives what ``sahi.predict.get_prediction`` does at that score threshold. Views are asked about with
    scores from 0.01, whatever the model's ``confidence_threshold``. For its sliced prediction give ``slices`` to
    ``detxai.wrap``. CAMs need the network inside: wrap the vendor's own model instead, where detxai knows it.

    Args:
        model: the SAHI model, its weights loaded.
        class_names: label -> name; default: the model's ``category_mapping``.

    Raises:
        ValueError: its weights are not loaded.
    """

    family = "sahi"
    what_it_is = "a SAHI model, whose answers alone are known"
    function: SahiDetector

    def __init__(self, model: Any, *, class_names: Mapping[int, str] | Sequence[str] | None = None) -> None:
        if model.model is None:
            raise ValueError(f"model: this {type(model).__name__} holds no network yet; call its load_model() first")
        names = _category_names(model) if class_names is None else class_names
        super().__init__(SahiDetector(model), class_names=names)

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        above = FunctionAdapter(SahiDetector(self.function.model, score_threshold), class_names=self.class_names)
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
