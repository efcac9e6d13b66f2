"""Models by name: paths of files and folders, torchvision's builders, factories of the user's, bundled detectors."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_model

from detxai.adapters.families import FAMILIES, torchvision_builders
from detxai.messages import did_you_mean

log = logging.getLogger(__name__)

Names = Mapping[int, str] | Sequence[str]


@dataclass(frozen=True)
class NamedModel:
    """What a name stands for.

    Attributes:
        model: what ``detxai.wrap`` takes.
        class_names: label -> name, as the source tells them; None: whatever the model itself says.
        options: for the adapter.
    """

    model: Any
    class_names: Names | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def load_model(name: str, weights: str | PathLike[str] | None, options: Mapping[str, Any]) -> NamedModel:
    """The model that a name stands for: see ``detxai.adapters.loading.load_detector``.

    Args:
        name: of the model.
        weights: for a torchvision builder, the file of its ``state_dict``.
        options: of ``detxai.wrap``; those that loading takes are not passed on.

    Raises:
        ValueError: no such model, or the weights do not fit it.
        FileNotFoundError: no such file.
    """
    builders = torchvision_builders()
    if name in builders:
        return NamedModel(_built(name, weights), options=options)
    load = _loader(name)
    if load is None:
        files = ", ".join(family.file for family in FAMILIES if family.file)
        raise ValueError(
            f"model must be {files}, module:function, one of {', '.join(BUNDLED)}, or one of torchvision's "
            f"{', '.join(builders)}; got {name!r}{did_you_mean(name, [*BUNDLED, *builders])}"
        )
    if weights is not None:
        raise ValueError(f"weights are for names of torchvision builders only ({name} has its own), got {weights}")
    return load(options)


def _loader(name: str) -> Callable[[Mapping[str, Any]], NamedModel] | None:
    """Loads what a name stands for that is no torchvision builder; None where it stands for nothing."""
    if name in BUNDLED:
        return BUNDLED[name]
    for family in FAMILIES:
        if family.load is not None and family.is_file(name):
            load, taken = family.load, family.load_options
            return lambda options: NamedModel(
                load(name, **{k: v for k, v in options.items() if k in taken}),
                options={k: v for k, v in options.items() if k not in taken},
            )
    return (lambda options: _from_factory(name, options)) if ":" in name else None


def _built(name: str, weights: str | PathLike[str] | None) -> nn.Module:
    if weights is None:
        log.warning("%s has no weights: they are random (seed 0), so its detections and maps mean nothing", name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return get_model(name, weights=None, weights_backbone=None)
    state = _state_dict(Path(weights))
    n_classes = torchvision_builders()[name].n_classes(state)
    if n_classes is None:
        raise ValueError(f"weights: {weights} is not a state_dict of {name}: it has no box predictor")
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
        is_safe = path.suffix == ".safetensors"
        state = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no one error for "not a checkpoint"
        raise ValueError(f"weights: {path} is not a state_dict that loads with weights_only=True: {error}") from error
    state = state.get("model", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"weights: {path} is not a state_dict")
    return state


def _from_factory(name: str, options: Mapping[str, Any]) -> NamedModel:
    place, _, function = name.rpartition(":")
    module = _module(place)
    factory = getattr(module, function, None)
    if not callable(factory):
        raise ValueError(f"model: {place} has no function {function!r}")
    model = factory()
    return NamedModel(model, getattr(model, "class_names", None) or getattr(module, "CLASS_NAMES", None), options)


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


def _scenes_frcnn(options: Mapping[str, Any]) -> NamedModel:
    from detxai.scenes import load_frcnn

    model = load_frcnn()
    return NamedModel(model, model.class_names, options)


def _scenes_yolo(options: Mapping[str, Any]) -> NamedModel:
    from detxai.scenes import load_yolo

    return NamedModel(load_yolo(), None, options)


def _scenes_rtdetr(options: Mapping[str, Any]) -> NamedModel:
    from detxai.scenes.detectors.rtdetr import load_rtdetr, rtdetr_image_processor

    processor = options.get("processor") or rtdetr_image_processor()
    return NamedModel(load_rtdetr(), None, {**options, "processor": processor})


BUNDLED: dict[str, Callable[[Mapping[str, Any]], NamedModel]] = {
    "scenes-frcnn": _scenes_frcnn,
    "scenes-yolo": _scenes_yolo,
    "scenes-rtdetr": _scenes_rtdetr,
}
