"""ultralytics' YOLO (v5u to 26: detection, and the boxes of segmentation, pose and rotated boxes) and RT-DETR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.adapters.changes.own_answer import Changes, changed_parts
from detxai.adapters.detector import Features, Inputs, as_uint8
from detxai.adapters.layers import (
    changed_tensors,
    for_batch,
    leaves_its_input,
    level_names,
    replaced,
    with_levels,
)
from detxai.adapters.network import NetworkDetector
from detxai.adapters.structure import Dense, NoShortcut
from detxai.adapters.ultralytics.checkpoint import ultralytics_module
from detxai.adapters.ultralytics.graph import IMAGE, Tail, layer_sources, run_layers, tail_from
from detxai.adapters.ultralytics.head import every_anchor, every_query, head_task, uses_one2one
from detxai.adapters.ultralytics.letterbox import (
    boxes_to_images,
    fractions_to_images,
    letterbox,
    rotated_to_images,
    rounded_size,
)
from detxai.adapters.ultralytics.predict import PredictSettings, predicted_boxes, set_head
from detxai.adapters.ultralytics.structure import dense
from detxai.detections import Candidates, Detections, check_score_threshold, checked_label_names, label_names
from detxai.images import Image
from detxai.reshape import ReshapeTransform, yolo_reshape_transform

# methods that have no effect on detections
WITHOUT_EFFECT = (
    "fuse",
    "is_fused",
    "info",
    "load",
    "loss",
    "init_criterion",
    "bias_init",
)


def is_yolo(model: object) -> bool:
    """True for ultralytics' ``YOLO`` and ``RTDETR`` objects and the networks inside them; imports nothing."""
    if not isinstance(model, nn.Module):
        return False
    return any(kind.__module__.partition(".")[0] == "ultralytics" for kind in type(model).__mro__)


@dataclass(frozen=True, eq=False)
class _Cache:
    """What resuming needs beside the levels.

    Attributes:
        tail: the layers left to run.
        given: layer -> its output, for its structure.
        kept: place -> the output of a skip connection.
    """

    tail: Tail
    given: dict[str, Any]
    kept: dict[int, Any]


class YOLOAdapter(NetworkDetector):
    """An ultralytics detector with a Detect, Segment, Pose, OBB or RT-DETR head.

    Candidates are all anchors (RT-DETR: all queries), with the sigmoid of every class. These heads have no separate
    objectness, so an anchor's is its highest class score. A rotated box is reported as the upright one around it.
    Dual heads (v10, 26) give the candidates of the branch that the detections come from: as ``YOLO.predict`` chooses
    it for a ``YOLO`` object (one-to-many with suppression, unless ``yolo.overrides["nms"]`` is False), and as
    ``model.end2end`` says for a bare network.

    Args:
        model: a ``YOLO`` or ``RTDETR`` object, or the network inside it. Never fused, copied or changed.
        class_names: label -> name; default: the model's own.
        input_size: side, or (height, width), that images are brought to; default: what the model was trained with.

    Raises:
        TypeError: ``class_names`` are no names; or ``model`` is nothing of this kind, an exported model, or has a
            head without boxes or of a family that is not supported (classification, semantic segmentation, depth,
            YOLO-World, YOLOE).
        ValueError: ``input_size`` is not positive, ``class_names`` are too few, too many or of other labels, or the
            model does not take RGB images.
    """

    family = "yolo"

    def __init__(
        self,
        model: object,
        *,
        class_names: Mapping[int, str] | Sequence[str] | None = None,
        input_size: int | tuple[int, int] | None = None,
    ) -> None:
        network, overrides = _network(model)
        self.head: Any = network.model[-1]  # type: ignore[index]
        n_classes = getattr(self.head, "nc", None)
        if class_names is None or n_classes is None:
            names = label_names(getattr(network, "names", {}) if class_names is None else class_names)
        else:
            names = checked_label_names(class_names, n_classes, background=False)
        super().__init__(network, names)
        self.task = head_task(self.head)
        channels = (getattr(network, "yaml", None) or {}).get("channels", 3)
        if channels != 3:
            raise ValueError(f"model must take RGB images, got one for {channels} channels")
        self.settings = PredictSettings.from_model(network, overrides)
        self.sources = layer_sources(network)
        self.strides = tuple(float(stride) for stride in network.stride)  # type: ignore[union-attr]
        self.stride = max(int(max(self.strides)), 32)  # as ultralytics' predictor
        self.input_size = rounded_size(self.settings.input_size if input_size is None else input_size, self.stride)

    @property
    def default_layers(self) -> tuple[str, ...]:
        """The layers whose outputs the head reads, in its order."""
        return tuple(f"model.{place}" for place in self.sources[-1])

    @property
    def reshape_transform(self) -> ReshapeTransform:
        return yolo_reshape_transform

    @property
    def end2end(self) -> bool:
        """True where the detections come from a one-to-one branch, without suppression."""
        wanted = self.settings.end2end
        return uses_one2one(self.head, bool(getattr(self.head, "end2end", False)) if wanted is None else wanted)

    def describe(self) -> dict[str, Any]:
        """Also the head, which branch of it, its strides, the input size and the weights' file."""
        return {
            **super().describe(),
            "head": type(self.head).__name__,
            "end2end": self.end2end,
            "strides": list(self.strides),
            "input_size": list(self.input_size),
            "weights": getattr(self.model, "pt_path", None),
        }

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        """What ``YOLO.predict(image, conf=score_threshold)`` answers, in the model's own precision."""
        check_score_threshold(score_threshold)
        inputs = self.prepare(image)
        with self.borrowed(), torch.no_grad():
            set_head(self.head, self.settings, self.end2end)
            return self._detected(self.model(inputs.tensor), inputs, score_threshold)

    def _detections(self, features: Features, score_threshold: float) -> Detections:
        if not isinstance(features.cache, _Cache) or self.changed_parts():
            return super()._detections(features, score_threshold)
        set_head(self.head, self.settings, self.end2end)
        output = self.head(self._copied_if_written(self._head_inputs(features)))
        return self._detected(output, features.inputs, score_threshold)

    def _detected(self, output: Any, inputs: Inputs, score_threshold: float) -> Detections:
        boxes, scores, labels = predicted_boxes(
            output[0], inputs, score_threshold, self.settings,
            task=self.task, n_classes=self.head.nc, end2end=self.end2end,
        )  # fmt: skip
        return Detections(boxes, scores, labels, self.class_names)

    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        # as the predictor: a batch of one shape shares the smallest rectangle, a mixed one the whole square
        rectangle = len({array.shape for array in arrays}) == 1
        stretch = self.task == "rtdetr"
        placed = [
            letterbox(array, self.input_size, self.stride, rectangle=rectangle, stretch=stretch) for array in arrays
        ]
        parts = []
        for array, _ in placed:
            part = torch.from_numpy(np.ascontiguousarray(array)).to(self.device).permute(2, 0, 1)
            parts.append(part.to(self.dtype).div(255) if array.dtype == np.uint8 else part.to(self.dtype))
        return Inputs(torch.stack(parts).contiguous(), tuple(geometry for _, geometry in placed), as_uint8(arrays))

    def _forward(self, inputs: Inputs) -> Candidates:
        reads = self.sources[-1]
        layers = range(len(self.sources) - 1)
        outputs = run_layers(self.model, {IMAGE: inputs.tensor}, layers, reads)
        return self._candidates([outputs[place] for place in reads], inputs)

    def changed_parts(self) -> Changes:
        """Changes of how the network runs its layers and its head decodes boxes; candidates follow changed layers."""
        return changed_parts({"model": self.model, "head": self.head}, "ultralytics.", WITHOUT_EFFECT)

    def _candidates(self, levels: list[Tensor], inputs: Inputs) -> Candidates:
        """What the head makes of its inputs, for B images, or B versions of one."""
        read = self._copied_if_written(levels)
        if self.task == "rtdetr":
            fractions, scores = every_query(self.head, read)
            boxes = fractions_to_images(fractions, inputs.geometries)
        else:
            boxes, scores = every_anchor(self.head, read, one2one=self.end2end, strides=self.strides)
            place = rotated_to_images if self.task == "obb" else boxes_to_images
            boxes = place(boxes, inputs.geometries)
        labels = torch.arange(scores.shape[-1])
        return Candidates(boxes[:, :, None], scores, scores.amax(-1), labels)

    @property
    def _heads(self) -> tuple[str, ...]:
        head = f"model.{len(self.sources) - 1}"
        if self.task == "rtdetr":
            return (head,)
        branch = "one2one_" if self.end2end else ""
        return tuple(f"{head}.{branch}{name}.{place}" for name in ("cv2", "cv3") for place in range(self.head.nl))

    def _copied_if_written(self, levels: list[Tensor]) -> list[Tensor]:
        """What the head reads may be a caller's: copies of it, where the head may write into it."""
        return levels if leaves_its_input(self.head) else [level.clone() for level in levels]

    def structure(self, features: Features) -> Dense | NoShortcut | None:
        """The head, branch by branch, where the features of one image are read by an upright-box head alone."""
        cache = features.cache
        if self.task not in ("detect", "segment", "pose") or not isinstance(cache, _Cache) or cache.tail.run:
            return None
        read = [f"model.{place}" for place in self.sources[-1]]
        if len(features.inputs) > 1 or features.batch_size > 1 or len(set(read)) < len(read):
            return None
        given = {layer: features.levels.get(layer, cache.kept.get(int(layer.partition(".")[2]))) for layer in read}
        levels = {layer: level for layer, level in given.items() if isinstance(level, Tensor)}
        if len(levels) < len(read) or not set(features.levels) <= set(levels):
            return None
        self._check_candidates(features.inputs)
        (geometry,) = features.inputs.geometries
        return dense(self.head, levels, one2one=self.end2end, strides=self.strides, geometry=geometry)

    def tail(self, layers: Sequence[str]) -> Tail | None:
        """The layers that depend on ``layers``, and what else they read; None where one is inside another layer.

        Raises:
            LookupError: a layer is the head, which puts out no features.
        """
        places = {f"model.{place}": place for place in range(len(self.sources))}
        head = f"model.{len(self.sources) - 1}"
        if head in layers:
            raise LookupError(f"layer {head!r} is the head, which outputs boxes; its inputs are {self.default_layers}")
        if not all(layer in places for layer in layers):
            return None
        return tail_from(self.sources, [places[layer] for layer in layers])

    def _features(self, inputs: Inputs, layers: tuple[str, ...]) -> Features:
        tail = self.tail(layers)
        layers_before: Any = self.model.model[:-1]  # type: ignore[index]
        if tail is None or not all(leaves_its_input(layer) for layer in layers_before):
            return super()._features(inputs, layers)
        keep = {*tail.given, *tail.cached}
        outputs = run_layers(self.model, {IMAGE: inputs.tensor}, range(max(keep) + 1), keep)
        given = {layer: outputs[int(layer.partition(".")[2])] for layer in layers}
        kept = {
            place: changed_tensors(outputs[place], lambda tensor: tensor.to(self.dtype)) for place in tail.cached
        }  # under autocast they are others
        cache = _Cache(tail, given, kept)
        return Features(level_names(given), layers, inputs, cache)

    def _resume(self, features: Features) -> Candidates:
        if not isinstance(features.cache, _Cache):
            return super()._resume(features)
        return self._candidates(self._head_inputs(features), features.inputs.repeated(features.batch_size))

    def _head_inputs(self, features: Features) -> list[Tensor]:
        """What the head reads behind these features: the layers that depend on them run, the others are known."""
        cache: _Cache = features.cache
        known = {place: for_batch(output, features.batch_size) for place, output in cache.kept.items()}
        for layer, output in cache.given.items():
            known[int(layer.partition(".")[2])] = with_levels(layer, output, features.levels)
        outputs = run_layers(self.model, known, cache.tail.run, self.sources[-1])
        return [outputs[place] for place in self.sources[-1]]

    def _putting_out(self, features: Features) -> AbstractContextManager[Any]:
        outputs = features.cache.given if isinstance(features.cache, _Cache) else features.cache
        return replaced(self.model, outputs, features.levels)


def _network(model: object) -> tuple[nn.Module, Mapping[str, Any] | None]:
    """The network inside ``model``, and the settings of a ``YOLO`` object."""
    engine, tasks = ultralytics_module("engine.model"), ultralytics_module("nn.tasks")
    overrides = None
    if isinstance(model, engine.Model):
        overrides, outer, model = model.overrides, model, model.model
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must hold a PyTorch network; this {type(outer).__name__} holds the export {model!r}"
            )
    if isinstance(model, tasks.BaseModel) and isinstance(getattr(model, "model", None), nn.Sequential):
        return model, overrides
    raise TypeError(f"model must be an ultralytics YOLO or RTDETR, or the network inside, got {type(model).__name__}")
