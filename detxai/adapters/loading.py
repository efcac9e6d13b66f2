"""Detectors by name, as the command line takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from detxai.adapters.detector import Detector
from detxai.adapters.models_by_name import BUNDLED
from detxai.adapters.registry import wrap

__all__ = ["BUNDLED", "load_detector"]


def load_detector(
    model: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    **options: Any,
) -> Detector:
    """A detector by name.

    Args:
        model: a torchvision builder's name (``fasterrcnn_resnet50_fpn``); the path of a YOLO ``.pt``; an
            exported ``.onnx``, OpenVINO ``.xml`` or ``.torchscript``; the folder that ``save_pretrained`` of a
            transformers detector (and of its image processor) wrote; ``module:function`` or ``file.py:function``, a
            factory of your own that returns the model; or a bundled detector: ``scenes-frcnn``, ``scenes-yolo`` or
            ``scenes-rtdetr``. A factory's module may list its ``CLASS_NAMES``.
        weights: for a torchvision builder, the file of its ``state_dict``, read with ``weights_only=True``.
            Nothing is ever downloaded: without it the weights are random.
        class_names: label -> name; default: the model's own.
        options: ``slices``, as ``detxai.wrap`` takes them, and the family's further ones, such as YOLO's
            ``input_size``.

    Raises:
        ValueError: no such model, or the weights do not fit it.
        FileNotFoundError: no such file.
    """
    return wrap(fspath(model), weights=weights, class_names=class_names, **options)
