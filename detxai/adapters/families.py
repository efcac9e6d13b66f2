"""The detector families: one ordered table of how each is recognised, loaded by name, wrapped, and what it supports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from os.path import isdir
from typing import Any

from torch import Tensor
from torchvision.models import detection as torchvision_detection
from torchvision.models import list_models
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

from detxai.adapters.black_boxes.function import FunctionAdapter, is_function
from detxai.adapters.black_boxes.sahi_model import SahiAdapter, is_sahi_model
from detxai.adapters.detector import Detector
from detxai.adapters.exported import SUFFIXES, ExportedAdapter, ExportedNetwork, open_exported
from detxai.adapters.torchvision.fcos import FCOSAdapter
from detxai.adapters.torchvision.retinanet import RetinaNetAdapter
from detxai.adapters.torchvision.ssd import SSDAdapter
from detxai.adapters.torchvision.two_stage import FasterRCNNAdapter
from detxai.adapters.transformers.detector import TransformersAdapter
from detxai.adapters.transformers.loading import load_folder
from detxai.adapters.transformers.recognising import is_of_transformers
from detxai.adapters.transformers.rfdetr import RFDETRAdapter, is_rfdetr
from detxai.adapters.ultralytics.checkpoint import load_checkpoint
from detxai.adapters.ultralytics.yolo import YOLOAdapter, is_yolo

ENTRY_POINTS = "detxai.adapters"


@dataclass(frozen=True)
class Family:
    """Detectors that one adapter takes.

    Attributes:
        takes: what a user calls them.
        recognises: whether a model is one.
        adapter: wraps it; a ``NetworkDetector`` where features and gradients can be asked for.
        ablation: how Ablation-CAM is exact on it; None where there are no features to ablate.
        extra: the extra of detxai that installs what it needs; None: nothing.
        builders: how the names of torchvision's builders of it begin.
        n_classes: from the ``state_dict`` of such a model, its ``num_classes``; None where it holds no such model.
        file: what files or folders of it are called in messages; empty where there are none.
        is_file: whether a path is one of them.
        load: from the path, and the options called ``load_options``, to a model that the family recognises.
        load_options: further options of ``wrap`` that loading takes; the others are the adapter's.
    """

    takes: str
    recognises: Callable[[Any], bool]
    adapter: type[Detector]
    ablation: str | None
    extra: str | None = None
    builders: tuple[str, ...] = ()
    n_classes: Callable[[Mapping[str, Tensor]], int | None] = lambda state: None
    file: str = ""
    is_file: Callable[[str], bool] = lambda path: False
    load: Callable[..., Any] | None = None
    load_options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As in ``Detector.family``."""
        return self.adapter.family


def wrapped_by_family(
    model: Any, class_names: Mapping[int, str] | Sequence[str] | None, options: Mapping[str, Any]
) -> Detector:
    """The detector that the first family which takes ``model`` makes of it.

    Families that other packages register under the entry points ``detxai.adapters`` come first, so that they can take
    subclasses and custom heads of those below. Each is a function ``(model, class_names=, **options)`` that returns a
    ``Detector``, or None where the model is not of that family.

    Raises:
        TypeError: no family takes this kind of model.
    """
    for entry in registered_families():
        detector = entry.load()(model, class_names=class_names, **options)
        if detector is not None:
            return _checked(detector, entry.name)
    for family in FAMILIES:
        if family.recognises(model):
            adapter: Any = family.adapter
            made: Detector = adapter(model, class_names=class_names, **options)
            return made
    kind, what = (model, "the class ") if isinstance(model, type) else (type(model), "")
    raise TypeError(f"model must be {_supported()}; got {what}{kind.__module__}.{kind.__qualname__}")


@lru_cache(maxsize=1)  # looking through all installed packages takes a twentieth of a second
def registered_families() -> tuple[EntryPoint, ...]:
    """The families that other installed packages register."""
    return tuple(entry_points(group=ENTRY_POINTS))


def _checked(detector: Any, name: str) -> Detector:
    if not isinstance(detector, Detector):
        raise TypeError(f"entry point {name!r} must return a detxai Detector or None, got {type(detector).__name__}")
    return detector


def _supported() -> str:
    *taken, function = (family.takes for family in FAMILIES)
    return f"{', '.join(taken)}, a model of a family registered under the entry points {ENTRY_POINTS!r}, or {function}"


def torchvision_builders() -> dict[str, Family]:
    """The names of torchvision's builders of detectors, and the family that each builds."""
    return {
        builder: family
        for builder in list_models(module=torchvision_detection)
        for family in FAMILIES
        if family.builders and builder.startswith(family.builders)
    }


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda model: isinstance(model, kind)


def _two_stage_classes(state: Mapping[str, Tensor]) -> int | None:
    classifier = state.get("roi_heads.box_predictor.cls_score.weight")
    return None if classifier is None else len(classifier)


def _classes_by(logits: tuple[str, ...], boxes: tuple[str, ...]) -> Callable[[Mapping[str, Tensor]], int | None]:
    """From the last layers' weights, A K outputs of the one and 4 A of the other; the first names that are there."""

    def n_classes(state: Mapping[str, Tensor]) -> int | None:
        for first, second in zip(logits, boxes, strict=True):
            if first in state and second in state:
                return len(state[first]) // max(1, len(state[second]) // 4)
        return None

    return n_classes


_CLASSES, _BOXES = "head.classification_head.", "head.regression_head."
_SHARED_CLASSES = _classes_by((f"{_CLASSES}cls_logits.weight",), (f"{_BOXES}bbox_reg.weight",))
_SSD_CLASSES = _classes_by(
    (f"{_CLASSES}module_list.0.weight", f"{_CLASSES}module_list.0.1.weight"),
    (f"{_BOXES}module_list.0.weight", f"{_BOXES}module_list.0.1.weight"),
)

FAMILIES = (  # the first that recognises a model takes it
    Family(
        "a torchvision FasterRCNN (also Mask and Keypoint R-CNN)",
        _is(FasterRCNN),
        FasterRCNNAdapter,
        "only what a channel reaches: its level's proposals and the boxes pooled from it",
        builders=("fasterrcnn", "maskrcnn", "keypointrcnn"),
        n_classes=_two_stage_classes,
    ),
    Family(
        "a torchvision RetinaNet",
        _is(RetinaNet),
        RetinaNetAdapter,
        "only what a channel reaches: its level's cells that can answer (with group normalisation: its level)",
        builders=("retinanet",),
        n_classes=_SHARED_CLASSES,
    ),
    Family(
        "a torchvision FCOS",
        _is(FCOS),
        FCOSAdapter,
        "only what a channel reaches: its level (group normalisation reads all of it)",
        builders=("fcos",),
        n_classes=_SHARED_CLASSES,
    ),
    Family(
        "a torchvision SSD or SSDLite",
        _is(SSD),
        SSDAdapter,
        "only what a channel reaches: its level, to which its change is added",
        builders=("ssd",),
        n_classes=_SSD_CLASSES,
    ),
    Family(
        "an ultralytics YOLO or its DetectionModel, the path of a YOLO .pt file",
        is_yolo,
        YOLOAdapter,
        "only what a channel reaches: its level's cells that can answer; the whole tail for rotated boxes and RT-DETR",
        extra="yolo",
        file="a YOLO .pt file",
        is_file=lambda path: path.endswith(".pt"),
        load=load_checkpoint,
    ),
    Family(
        "a transformers AutoModelForObjectDetection, the folder of one",
        is_of_transformers,
        TransformersAdapter,
        "the whole tail behind the backbone",
        extra="transformers",
        file="a folder saved by transformers",
        is_file=isdir,
        load=load_folder,
    ),
    Family(
        "an rfdetr RFDETR, detecting or segmenting",
        is_rfdetr,
        RFDETRAdapter,
        "the whole tail behind the backbone",
        extra="rfdetr",
    ),
    Family(
        "the path of an exported .onnx (OpenVINO's .xml, with the extra openvino; .torchscript, with none)",
        _is(ExportedNetwork),
        ExportedAdapter,
        None,
        extra="onnx",
        file=f"an exported {', '.join(SUFFIXES)}",
        is_file=lambda path: path.endswith(SUFFIXES),
        load=open_exported,
        load_options=("layout", "preparation", "input_size"),
    ),
    Family("a sahi DetectionModel, of whichever vendor", is_sahi_model, SahiAdapter, None, extra="sahi"),
    Family("a function from a list of images to their detections", is_function, FunctionAdapter, None),
)
