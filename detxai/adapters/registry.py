"""From whatever a user calls a model to an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from os import PathLike
from typing import Any, overload

from torch import nn

from detxai.adapters.detector import Detector
from detxai.adapters.families import FAMILIES
from detxai.adapters.network import NetworkDetector
from detxai.adapters.sliced import SlicedAdapter, Slicing

ENTRY_POINTS = "detxai.adapters"


@overload
def wrap(
    model: nn.Module,
    *,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    slices: None = None,
    **options: Any,
) -> NetworkDetector: ...


@overload
def wrap(
    model: Any,
    *,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    slices: tuple[int, int, float] | Slicing | None = None,
    **options: Any,
) -> Detector: ...


def wrap(
    model: nn.Module | Detector | str | PathLike[str] | Any,
    *,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    slices: tuple[int, int, float] | Slicing | None = None,
    **options: Any,
) -> Detector:
    """The detector behind ``model``, ready to be asked about its boxes.

    The model is not changed, copied or fused; it is borrowed during calls and given back as it was.

    Args:
        model: a torchvision ``FasterRCNN``, ``RetinaNet``, ``FCOS`` or ``SSD``; an ultralytics ``YOLO``, its
            ``DetectionModel`` or the path of its ``.pt`` file; any of transformers' ``AutoModelForObjectDetection`` or
            the folder that its ``save_pretrained`` wrote; an ``rfdetr.RFDETR``; a ``sahi`` detection model; a model of
            a registered family; or, for any other detector (an ONNX session, an engine, a web service), a plain
            function from a list of uint8 (H, W, 3) RGB arrays to a list of their detections: see
            ``detxai.adapters.black_boxes.function.FunctionAdapter``. Data-parallel and compiled wrappers are looked
            through. Names that ``detxai.adapters.loading.load_detector`` knows work too.
        class_names: label -> name; default: the model's own.
        slices: for large images, ``(rows, columns, overlap)``: run on so many slices that overlap by this share of
            their side, and on the whole, as SAHI does; or a ``detxai.Slicing``, which says more. None: on the whole.
        options: the family's further options, such as YOLO's ``input_size`` or transformers' ``processor``.

    Raises:
        TypeError: no family takes this kind of model.
        FileNotFoundError, ValueError: a path is wrong, or ``slices`` are.
    """
    if slices is not None:
        slicing = Slicing.from_setting(slices)
        return SlicedAdapter(wrap(model, class_names=class_names, **options), slicing)
    if isinstance(model, Detector):
        return model
    if isinstance(model, (str, PathLike)):
        from detxai.adapters.loading import load_detector  # loading leans on wrap for what it has loaded

        return load_detector(model, class_names=class_names, **options)
    model = _innermost(model)
    for entry in entry_points(group=ENTRY_POINTS):
        adapter = entry.load()(model, class_names=class_names, **options)
        if adapter is not None:
            return _checked(adapter, entry.name)
    for family in FAMILIES:
        if family.recognises(model):
            return family.adapter(model, class_names=class_names, **options)
    kind, what = (model, "the class ") if isinstance(model, type) else (type(model), "")
    raise TypeError(f"model must be {_supported()}; got {what}{kind.__module__}.{kind.__qualname__}")


def _supported() -> str:
    *taken, function = (family.takes for family in FAMILIES)
    return f"{', '.join(taken)}, a model of a family registered under the entry points {ENTRY_POINTS!r}, or {function}"


def _innermost(model: Any) -> Any:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``."""
    while isinstance(model, nn.Module):
        inside = model
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inside = model.module
        inside = getattr(inside, "_orig_mod", inside)
        if inside is model:
            break
        model = inside
    return model


def _checked(adapter: Any, name: str) -> Detector:
    if not isinstance(adapter, Detector):
        raise TypeError(f"entry point {name!r} must return a detxai Detector or None, got {type(adapter).__name__}")
    return adapter
