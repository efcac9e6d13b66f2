"""Query detectors of transformers: every model that puts out ``logits`` and ``pred_boxes``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.adapters.attention import Attention
from detxai.adapters.changes.own_answer import Changes
from detxai.adapters.detector import Features, Inputs, as_uint8
from detxai.adapters.layers import capture, changed_tensors, for_batch, skipping
from detxai.adapters.network import NetworkDetector
from detxai.adapters.transformers.attention import attending_layers, attention_recorded
from detxai.adapters.transformers.levels import LayerOutput, features_of, grids_recorded, traced_levels
from detxai.adapters.transformers.places import blocks_before, last_norm, modules_before, shallowest
from detxai.adapters.transformers.processing import (
    check_processor,
    default_processor,
    gives_mask,
    pixel_mask,
    processed,
    query_candidates,
    resized_sizes,
    saved_processor,
    scoring_of,
)
from detxai.adapters.transformers.recognising import check_model
from detxai.adapters.transformers.recorders import is_recorder, recorders_removed
from detxai.detections import Candidates, Detections, check_score_threshold, checked_label_names, label_names
from detxai.geometry import Geometry
from detxai.images import Image
from detxai.reshape import ReshapeTransform, fpn_reshape_transform, tokens_reshape_transform

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Cache:
    """What resuming needs beside the levels.

    Attributes:
        outputs: layer -> its whole output.
        before: modules that run before the layers -> their outputs, so that they need not run again.
    """

    outputs: Mapping[str, LayerOutput]
    before: Mapping[str, Any]


class TransformersAdapter(NetworkDetector):
    """Any of transformers' ``AutoModelForObjectDetection``: DETR, RT-DETR, D-FINE, RF-DETR, YOLOS and their relatives.

    Images are prepared, and detections made, by the model's own image processor. Candidates are all queries, each with
    its box and the scores of all classes as the processor's ``post_process_object_detection`` computes them. The
    places that queries start from may change with the image, so a target finds its box among the candidates by overlap
    and class, never by the index of a query.

    Layers are named as in ``model.named_modules()``. Their output may be feature maps, a list of them with masks, an
    encoder's output object, or tokens; the tokens of a pyramid are split into its levels. Class and detection tokens
    are not features. The default layer is the encoder, whose output the decoder reads; without an encoder, the
    backbone; for YOLOS, the normalisation before the last attention.

    Args:
        model: the detector.
        processor: its image processor; default: the one saved beside the weights that ``from_pretrained`` loaded,
            else the family's own with its own settings (the input size where the configuration fixes it).
        class_names: label -> name; default: ``model.config.id2label``.

    Raises:
        TypeError: ``model`` is no query detector of transformers, or ``processor`` no image processor of a detector.
        ValueError: how the processor scores classes cannot be found, or ``class_names`` are too few, too many or of
            other labels.
    """

    family = "transformers"
    model: Any  # nn.Module types every part of a model as Tensor | Module

    def __init__(
        self,
        model: nn.Module,
        *,
        processor: Any = None,
        class_names: Mapping[int, str] | Sequence[str] | None = None,
    ) -> None:
        check_model(model)
        config: Any = model.config
        n_labels = len(config.id2label)
        own = label_names(config.id2label)  # unchecked: they are what they are
        self._set_network(
            model, own if class_names is None else checked_label_names(class_names, n_labels, background=False)
        )
        self.processor = _processor_of(model) if processor is None else processor
        check_processor(self.processor)
        self._gives_mask = gives_mask(self.processor)
        self.scoring = scoring_of(self.processor, n_labels)

    def _set_network(self, model: nn.Module, class_names: Mapping[int, str]) -> None:
        """Set what is known about the network, independent of how images are prepared for it."""
        NetworkDetector.__init__(self, model, class_names)
        self._n_queries: int | None = getattr(getattr(model, "config", None), "num_detection_tokens", None)
        self._backbone = shallowest(model, "backbone")
        self._encoder = shallowest(model, "encoder")
        self._cells = _cells(model, self._encoder)
        self._is_lent = False

    @property
    def default_layers(self) -> tuple[str, ...]:
        """The encoder; without one, the backbone; for YOLOS, the normalisation before its last attention."""
        if self._n_queries is not None:
            return (last_norm(self.model),)
        found = self._encoder or self._backbone
        if found is None:
            raise LookupError(f"layers must be given: {type(self.model).__name__} has no encoder and no backbone")
        return (found,)

    @property
    def reshape_transform(self) -> ReshapeTransform:
        if self._n_queries is None:
            return _reshaped
        n_queries = self._n_queries
        return lambda output: tokens_reshape_transform(output, n_before=1, n_after=n_queries)

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Also removes the hooks that transformers places to record hidden states and leaves on a model."""
        with super().borrowed():
            if self._is_lent:
                yield
                return
            self._is_lent = True
            try:
                with recorders_removed(self.model):
                    yield
            finally:
                self._is_lent = False

    def describe(self) -> dict[str, Any]:
        """Also the image processor."""
        return {**super().describe(), "processor": type(self.processor).__name__}

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        """The result of the processor's ``post_process_object_detection(outputs, score_threshold)``.

        Boxes that end before they start, as D-FINE's may, are left out.
        """
        check_score_threshold(score_threshold)
        with self.borrowed(), torch.no_grad():
            return self._detected(self.prepare(image), score_threshold)

    def _detections(self, features: Features, score_threshold: float) -> Detections:
        with self._putting_out(features):
            return self._detected(features.inputs, score_threshold)

    def _detected(self, inputs: Inputs, score_threshold: float) -> Detections:
        (found,) = self.processor.post_process_object_detection(
            self._outputs(inputs), threshold=score_threshold, target_sizes=[inputs.geometries[0].image_size]
        )
        boxes = found["boxes"].float()
        kept = (boxes[:, 2:] >= boxes[:, :2]).all(1)
        return Detections(boxes[kept], found["scores"].float()[kept], found["labels"][kept], self.class_names)

    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        inputs = processed(self.processor, arrays)
        if ("pixel_mask" in inputs) != self._gives_mask:
            raise ValueError("processor was changed: it gives a pixel_mask now and none before, or the other way round")
        tensor = inputs["pixel_values"].to(self.device, self.dtype)
        input_size = (tensor.shape[-2], tensor.shape[-1])
        geometries = tuple(
            Geometry((array.shape[0], array.shape[1]), input_size, resized, **self._cells)
            for array, resized in zip(arrays, resized_sizes(self.processor, inputs, arrays), strict=True)
        )
        return Inputs(tensor, geometries, as_uint8(arrays))

    def _forward(self, inputs: Inputs) -> Candidates:
        outputs = self._outputs(inputs)
        sizes = [geometry.image_size for geometry in inputs.geometries]
        return query_candidates(outputs.logits, outputs.pred_boxes, self.scoring, sizes)

    def _outputs(self, inputs: Inputs) -> Any:
        """The model's own output for prepared images."""
        named: dict[str, Any] = {}
        if self._gives_mask and _takes(self.model.forward, "pixel_mask"):
            resized = [geometry.resized_size for geometry in inputs.geometries]
            named["pixel_mask"] = pixel_mask(inputs.geometries[0].input_size, resized, inputs.tensor.device)
        outputs = self.model(pixel_values=inputs.tensor, **named)
        if isinstance(outputs, tuple):
            raise ValueError("model must output an object with logits and pred_boxes; set model.config.return_dict")
        for name, size in (("logits", None), ("pred_boxes", 4)):
            tensor = getattr(outputs, name, None)
            if not isinstance(tensor, Tensor) or tensor.ndim != 3 or tensor.shape[-1] != (size or tensor.shape[-1]):
                raise ValueError(f"model must output {name} (B, Q, {size or 'K'}), got {_described(tensor)}")
        return outputs

    def changed_parts(self) -> Changes:
        """Changes of how the processor makes detections; candidates come of the model's own pass, changed or not."""
        own = self.processor.post_process_object_detection
        function = getattr(own, "__func__", None)  # None: no method, but something put in its place
        is_theirs = function is not None and function.__module__.startswith("transformers.")
        return {} if is_theirs else {"processor.post_process_object_detection": own}

    def _check_features(self, inputs: Inputs, layers: tuple[str, ...]) -> None:
        """Layers are captured in the model's own pass, the one its detections come from: there is nothing to check."""

    def _features(self, inputs: Inputs, layers: tuple[str, ...]) -> Features:
        before = self._modules_before(layers)
        with grids_recorded(self.model, self._n_queries) as grids, capture(self.model, (*layers, *before)) as outputs:
            self._outputs(inputs)
        outputs = changed_tensors(outputs, self._in_own_precision)
        found = {layer: LayerOutput.from_output(layer, outputs[layer], grids) for layer in layers}
        levels = {name: level for output in found.values() for name, level in output.levels.items()}
        known = {name: outputs[name] for name in before}
        for name in before:  # the blocks of a stack before it: what they put out is read by the next one alone
            known.update(dict.fromkeys(blocks_before(self.model, name), outputs[name]))
        return Features(levels, layers, inputs, _Cache(found, known))

    def trace(self, inputs: Inputs, layers: Sequence[str]) -> tuple[Mapping[str, Tensor], Candidates]:
        with self.borrowed(), torch.enable_grad(), traced_levels(self.model, layers, self._n_queries) as levels:
            candidates = self.candidates(inputs)
        return levels, candidates

    def attention(self, inputs: Inputs) -> Attention:
        """How much the queries attend to the places of one image: the decoder's cross-attention, or YOLOS's attention.

        Raises:
            TypeError: the model has no attention of queries that detxai knows.
            ValueError: there are several images, or the model runs without gradients.
        """
        if len(inputs) != 1:
            raise ValueError(f"attention is asked of one image at a time, got {len(inputs)}")
        names = attending_layers(self.model, queries_are_tokens=self._n_queries is not None)
        if not names:
            raise TypeError(f"detector must have attention of queries, got none in {type(self.model).__name__}")
        if any(parameter.is_inference() for parameter in self._parameters()):
            raise ValueError("model must have gradients, got none: it was made in inference mode")
        with (
            self.borrowed(),
            grids_recorded(self.model, self._n_queries) as grids,
            attention_recorded(self.model, names) as records,
        ):
            candidates = self._forward(inputs)
        layers = tuple(
            record.layer(grids) for record in records if record.ran
        )  # a decoder may leave its last layers out
        if not layers:
            raise ValueError(f"model must run its attention, {names[0]!r} and the like, to be asked for it; none ran")
        return Attention(candidates, inputs, layers)

    def _putting_out(self, features: Features) -> AbstractContextManager[Any]:
        many = features.batch_size
        known = {name: for_batch(output, many) for name, output in features.cache.before.items()}
        known.update({name: output.with_levels(features.levels) for name, output in features.cache.outputs.items()})
        return skipping(self.model, known, is_recorder)

    def _modules_before(self, layers: Sequence[str]) -> tuple[str, ...]:
        """Modules whose outputs ``layers`` do not affect: see ``modules_before``."""
        return modules_before(self.model, layers)

    def _in_own_precision(self, tensor: Tensor) -> Tensor:
        """Under autocast layers put out other dtypes, which later layers outside of it do not take."""
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def _processor_of(model: Any) -> Any:
    place = getattr(model, "name_or_path", None)
    found = saved_processor(place) if place else None
    if found is not None:
        return found
    chosen = default_processor(model.config)
    if place:
        log.warning("%s holds no image processor: images are prepared as a %s does", place, type(chosen).__name__)
    return chosen


def _cells(model: nn.Module, encoder: str | None) -> dict[str, Any]:
    """Where in the input the detector takes a feature to lie: ``cell_centre`` and ``cell_steps`` of ``Geometry``."""
    config: Any = getattr(model, "config", None)
    if any(name.endswith(".sampling_offsets") for name, _ in model.named_modules()):
        return {"cell_centre": 0.5, "cell_steps": ()}  # reference points (i + 0.5) / n of deformable attention
    if encoder is not None and getattr(config, "num_detection_tokens", None) is None:
        return {"cell_centre": 0.0, "cell_steps": None}  # by where the convolutions look
    patch = getattr(config, "patch_size", None)
    return {"cell_centre": 0.5, "cell_steps": (float(patch),) if isinstance(patch, int) else None}


def _takes(forward: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(forward).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _reshaped(output: Any) -> Tensor:
    """An encoder's or backbone's output as (B, C, H, W); tokens of anything but a square grid need their size."""
    tensors = [tensor for tensor in features_of(output) if isinstance(tensor, Tensor)]
    if len(tensors) == 1:
        return tokens_reshape_transform(tensors[0])
    return fpn_reshape_transform(tensors)


def _described(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
