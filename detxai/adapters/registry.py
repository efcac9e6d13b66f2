"""``wrap``: from whatever a user calls a model to a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, overload

from torch import nn

from detxai.adapters.detector import Detector
from detxai.adapters.families import wrapped_by_family
from detxai.adapters.models_by_name import load_model
from detxai.adapters.network import NetworkDetector
from detxai.adapters.sliced import SlicedAdapter, Slicing


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
    weights: str | PathLike[str] | None = None,
    **options: Any,
) -> Detector: ...


def wrap(
    model: nn.Module | Detector | str | PathLike[str] | Any,
    *,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    slices: tuple[int, int, float] | Slicing | None = None,
    weights: str | PathLike[str] | None = None,
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
            through. Names that ``detxai.adapters.models_by_name.load_model`` knows work too.
        class_names: label -> name; default: the model's own.
        slices: for large images, ``(rows, columns, overlap)``: run on so many slices that overlap by this share of
            their side, and on the whole, as SAHI does; or a ``detxai.Slicing``, which says more. None: on the whole.
        weights: for the name of a torchvision builder, the file of its ``state_dict``.
        options: the family's further options, such as YOLO's ``input_size`` or transformers' ``processor``.

    Raises:
        TypeError: no family takes this kind of model.
        FileNotFoundError, ValueError: a path is wrong, or ``slices`` are, or ``weights`` do not fit the model.
    """
    if slices is not None:
        slicing = Slicing.from_setting(slices)  # wrong ones are refused before anything is loaded
        return SlicedAdapter(wrap(model, class_names=class_names, weights=weights, **options), slicing)
    if isinstance(model, (str, PathLike)):
        named = load_model(fspath(model), weights, options)
        names = named.class_names if class_names is None else class_names
        return wrap(named.model, class_names=names, **named.options)
    if weights is not None:
        raise ValueError(f"weights are for names of torchvision builders only, got {weights}")
    if isinstance(model, Detector):
        return model
    return wrapped_by_family(_innermost(model), class_names, options)


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
