"""The detector families that detxai knows: how each is recognised, what wraps it, and what it supports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from torch import Tensor
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

from detxai.adapters.black_boxes.function import FunctionAdapter, is_function
from detxai.adapters.black_boxes.sahi_model import SahiAdapter, is_sahi_model
from detxai.adapters.exported import SUFFIXES, ExportedAdapter
from detxai.adapters.torchvision.fcos import FCOSAdapter
from detxai.adapters.torchvision.retinanet import RetinaNetAdapter
from detxai.adapters.torchvision.ssd import SSDAdapter
from detxai.adapters.torchvision.two_stage import FasterRCNNAdapter
from detxai.adapters.transformers.detector import TransformersAdapter
from detxai.adapters.transformers.recognising import is_of_transformers
from detxai.adapters.transformers.rfdetr import RFDETRAdapter, is_rfdetr
from detxai.adapters.ultralytics.yolo import YOLOAdapter, is_yolo


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
    """

    takes: str
    recognises: Callable[[Any], bool]
    adapter: type[Any]
    ablation: str | None
    extra: str | None = None
    builders: tuple[str, ...] = ()
    n_classes: Callable[[Mapping[str, Tensor]], int | None] = lambda state: None

    @property
    def name(self) -> str:
        """As in ``Detector.family``."""
        name: str = self.adapter.family
        return name


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

FAMILIES = (  # in the order in which they are tried, after the registered entry points
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
    ),
    Family(
        "a transformers AutoModelForObjectDetection, the folder of one",
        is_of_transformers,
        TransformersAdapter,
        "the whole tail behind the backbone",
        extra="transformers",
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
        lambda model: isinstance(model, (str, PathLike)) and fspath(model).endswith(SUFFIXES),
        ExportedAdapter,
        None,
        extra="onnx",
    ),
    Family("a sahi DetectionModel, of whichever vendor", is_sahi_model, SahiAdapter, None, extra="sahi"),
    Family("a function from a list of images to their detections", is_function, FunctionAdapter, None),
)
