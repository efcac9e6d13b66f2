"""Detectors by name, as the command line takes them."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os.path
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, list_models

from detxai.adapters.detector import Detector
from detxai.adapters.exported import SUFFIXES, load_exported
from detxai.adapters.families import FAMILIES
from detxai.adapters.registry import wrap
from detxai.adapters.sliced import Slicing
from detxai.adapters.transformers.loading import load_folder
from detxai.adapters.ultralytics.yolo import load_yolo

log = logging.getLogger(__name__)

Names = Mapping[int, str] | Sequence[str]


def load_detector(
    model: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    class_names: Names | None = None,
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
    slices = options.pop("slices", None)
    if slices is not None:
        slicing = Slicing.from_setting(slices)  # wrong ones are refused before anything is loaded
        return wrap(load_detector(model, weights=weights, class_names=class_names, **options), slices=slicing)
    name = fspath(model)
    if name.endswith(".pt"):
        _refuse_weights(weights, "a YOLO .pt file holds its own")
        return load_yolo(name, class_names=class_names, **options)
    if name.endswith(SUFFIXES):
        _refuse_weights(weights, "an exported file holds its own")
        return load_exported(name, class_names=class_names, **options)
    if name in BUNDLED:
        _refuse_weights(weights, "a bundled detector has its own")
        return BUNDLED[name](class_names, options)
    if os.path.isdir(name) and name not in list_models(module=torchvision_detection):
        _refuse_weights(weights, "a folder holds its own")
        return load_folder(name, class_names=class_names, **options)
    if ":" in name:
        _refuse_weights(weights, "a factory loads its own")
        return _from_factory(name, class_names, options)
    return wrap(_torchvision_model(name, weights), class_names=class_names, **options)


def _refuse_weights(weights: object, reason: str) -> None:
    if weights is not None:
        raise ValueError(f"weights are for torchvision builders only ({reason}), got {weights}")


def _torchvision_model(name: str, weights: str | PathLike[str] | None) -> nn.Module:
    builders = {
        builder: family
        for builder in list_models(module=torchvision_detection)
        for family in FAMILIES
        if family.builders and builder.startswith(family.builders)
    }
    if name not in builders:
        raise ValueError(
            f"model must be a YOLO .pt file, an exported {', '.join(SUFFIXES)}, a folder saved by transformers, "
            f"module:function, one of {', '.join(BUNDLED)}, or one of torchvision's {', '.join(builders)}; got {name!r}"
        )
    if weights is None:
        log.warning("%s has no weights: they are random (seed 0), so its detections and maps mean nothing", name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return get_model(name, weights=None, weights_backbone=None)
    state = _state_dict(Path(weights))
    n_classes = builders[name].n_classes(state)
    if n_classes is None:
        raise ValueError(f"weights: {weights} is no state_dict of {name}: it has no box predictor")
    network = get_model(name, weights=None, weights_backbone=None, num_classes=n_classes)
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        raise ValueError(f"weights: {weights} does not fit {name}: {error}") from error
    return network


def _state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"weights: no such file: {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no one error for "not a checkpoint"
        raise ValueError(f"weights: {path} is not a state_dict that loads with weights_only=True: {error}") from error
    state = state.get("model", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"weights: {path} is not a state_dict")
    return state


def _from_factory(name: str, class_names: Names | None, options: Mapping[str, Any]) -> Detector:
    place, _, function = name.rpartition(":")
    module = _module(place)
    factory = getattr(module, function, None)
    if not callable(factory):
        raise ValueError(f"model: {place} has no function {function!r}")
    network = factory()
    if class_names is None:
        class_names = getattr(network, "class_names", None) or getattr(module, "CLASS_NAMES", None)
    return wrap(network, class_names=class_names, **options)


def _module(place: str) -> ModuleType:
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise FileNotFoundError(f"model: no such file: {place}")
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None, place  # a .py file always has a spec and a loader
        assert spec.loader is not None, place
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    try:
        with _working_folder_importable():
            return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name != place.partition(".")[0] and error.name != place:
            raise
        raise ValueError(f"model: there is no module {place!r} (looked in the working folder too)") from error


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """An installed command does not look for modules where it was started, unlike ``python -m``."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _scenes_frcnn(class_names: Names | None, options: Mapping[str, Any]) -> Detector:
    from detxai.scenes import load_frcnn

    model = load_frcnn()
    return wrap(model, class_names=class_names or model.class_names, **options)


def _scenes_yolo(class_names: Names | None, options: Mapping[str, Any]) -> Detector:
    from detxai.scenes import load_yolo as load_scenes_yolo

    return wrap(load_scenes_yolo(), class_names=class_names, **options)


def _scenes_rtdetr(class_names: Names | None, options: Mapping[str, Any]) -> Detector:
    from detxai.scenes.detectors.rtdetr import load_rtdetr, rtdetr_image_processor

    processor = options.get("processor") or rtdetr_image_processor()
    return wrap(load_rtdetr(), class_names=class_names, **{**options, "processor": processor})


BUNDLED: dict[str, Callable[[Names | None, Mapping[str, Any]], Detector]] = {
    "scenes-frcnn": _scenes_frcnn,
    "scenes-yolo": _scenes_yolo,
    "scenes-rtdetr": _scenes_rtdetr,
}
