"""Any function from images to detections as a detector: an ONNX session, an inference engine, a web service."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from detxai.adapters.black_boxes.answers import Answer, as_candidates, check_answers, read_answers, suppressed
from detxai.adapters.detector import Detector, Inputs, unresized_inputs
from detxai.detections import Candidates, Detections, check_score_threshold, label_names
from detxai.images import Image

Function: TypeAlias = Callable[[list[npt.NDArray[np.uint8]]], Sequence[Any]]


class FunctionAdapter(Detector):
    """A plain function as a detector.

    The function takes a list of uint8 (H, W, 3) RGB arrays, copies that it may change, and returns a list with an
    answer for each. It is called once for each batch, without autograd, and its exceptions are not caught. detxai does
    not manage its device, mode or random state. An answer is one of

    - ``detxai.Detections``, or a dict of ``boxes`` (N, 4) xyxy, ``scores`` (N,) and ``labels`` (N,);
    - an ultralytics ``Results``, a ``supervision.Detections``, a SAHI ``PredictionResult``, or a list of COCO records,
      as ``detxai.formats`` reads them;
    - its candidates before non-maximum suppression: a dict of ``boxes`` (N, 4), or (N, C, 4) where each class has a
      box of its own, and ``class_scores`` (N, C) without the background; perhaps ``objectness`` (N,), by default the
      highest class score, and ``classes`` (C,), the class number of each column, by default 0, 1, 2, ...; or
      ``detxai.Candidates`` of one image.

    Boxes are in pixels of the array (fractions of its size are refused), scores in [0, 1]; tensors, arrays and lists
    are accepted. The function should keep low scores: a box that it drops cannot be seen to weaken. Candidates tell
    more than detections: the scores of every class, and boxes that suppression would drop. ``detect`` suppresses them
    by class at an IoU of 0.5.

    Images of several sizes are padded to the largest for the batch, to the right and below; the function gets them
    without the padding.

    Args:
        function: the function.
        class_names: label -> name; default: ``function.class_names`` if it has them, and the names in the answers.
            A list must name every class: answers with other labels are refused.

    Raises:
        TypeError: ``function`` cannot be called, or is a class or a module.

    Example:
        A TensorRT engine, which ultralytics runs; it takes arrays as BGR:

        >>> engine = YOLO("yolo11n.engine")                                        # doctest: +SKIP
        >>> def detect(images):                                                    # doctest: +SKIP
        ...     return engine.predict([image[..., ::-1] for image in images], conf=0.05)
        >>> detector = detxai.wrap(detect)                                         # doctest: +SKIP
    """

    family = "function"
    what_it_is = "a plain function"

    def __init__(self, function: Function, *, class_names: Mapping[int, str] | Sequence[str] | None = None) -> None:
        if not is_function(function):
            kind = "the class " + function.__qualname__ if isinstance(function, type) else type(function).__name__
            raise TypeError(f"function must be callable with a list of images, and no class or module; got {kind}")
        self.function = function
        names = getattr(function, "class_names", {}) if class_names is None else class_names
        self.class_names = label_names(names)
        self._n_classes = None if isinstance(names, Mapping) else len(self.class_names)  # a list names them all

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        check_score_threshold(score_threshold)
        with self.borrowed():
            (answer,) = self._answers(self.prepare(image))
            found = suppressed(answer, score_threshold) if isinstance(answer, Candidates) else answer
            kept = found[found.scores > score_threshold]
        return replace(kept, class_names={**kept.class_names, **self.class_names})

    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        return unresized_inputs(arrays)

    def _forward(self, inputs: Inputs) -> Candidates:
        return as_candidates(self._answers(inputs))

    def _answers(self, inputs: Inputs) -> list[Answer]:
        with torch.no_grad():
            answers = self.function(_arrays(inputs))
        found = read_answers(answers, len(inputs))
        check_answers(found, [geometry.image_size for geometry in inputs.geometries], self._n_classes)
        return found

    @property
    def model_name(self) -> str:
        named: Any = self.function
        while isinstance(named, functools.partial):
            named = named.func
        named = named if hasattr(named, "__qualname__") else type(named)
        return f"{named.__module__}.{named.__qualname__}"


def is_function(model: object) -> bool:
    """True for what ``FunctionAdapter`` takes: callable, but neither a class nor a module."""
    return callable(model) and not isinstance(model, (type, nn.Module, Detector))


def _arrays(inputs: Inputs) -> list[npt.NDArray[np.uint8]]:
    """The images as the function takes them: uint8 (H, W, 3), each of its own size and memory."""
    levels = inputs.tensor.detach().cpu().clamp(0, 1) * 255 + 0.5
    pixels = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    sizes = [geometry.resized_size for geometry in inputs.geometries]
    return [np.ascontiguousarray(one[:height, :width]) for one, (height, width) in zip(pixels, sizes, strict=True)]
