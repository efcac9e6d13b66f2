"""RF-DETR of the package ``rfdetr``: the same queries as transformers', with a preparation of its own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.functional import normalize, resize

from detxai.adapters.changes.own_answer import Changes
from detxai.adapters.detector import Features, Inputs, as_uint8
from detxai.adapters.transformers.detector import TransformersAdapter
from detxai.adapters.transformers.processing import query_candidates, sides_of, sigmoid_scores
from detxai.detections import Candidates, Detections, check_score_threshold, checked_label_names
from detxai.geometry import Geometry
from detxai.images import Image, load_image, to_tensor
from detxai.reshape import ReshapeTransform, fpn_reshape_transform

PACKAGE = "rfdetr"
PROJECTOR, ENCODER = "backbone.0.projector", "backbone.0.encoder"


def is_rfdetr(model: object) -> bool:
    """True for ``rfdetr``'s models and the networks inside them; imports nothing."""
    return any(kind.__module__.partition(".")[0] == PACKAGE for kind in type(model).__mro__)


class RFDETRAdapter(TransformersAdapter):
    """An ``rfdetr.RFDETR``, detecting or segmenting: ``RFDETRNano``, ``RFDETRMedium``, ``RFDETRSegSmall`` and so on.

    Detections are those of ``model.predict``. Candidates are all queries, each with the sigmoid of every class, their
    boxes clipped to the image. The default layer is the projector, whose maps the decoder reads. The network is moved
    to the device that the model names, as its own first ``predict`` does.

    Args:
        model: the model, not optimised.
        class_names: label -> name; default: as ``predict`` names its ``class_id``.

    Raises:
        TypeError: ``model`` is no ``RFDETR``, or one for key points.
        ValueError: it was optimised, does not take RGB images, or ``class_names`` are too few, too many or of other
            labels.
    """

    family = "rfdetr"

    def __init__(self, model: Any, *, class_names: Mapping[int, str] | Sequence[str] | None = None) -> None:
        _check(model)
        network = model.model.model.to(model.model.device)
        n_classes = len(network.class_embed.bias)
        names = _own_names(model) if class_names is None else class_names
        self.predictor = model
        self._set_network(network, checked_label_names(names, n_classes, background=False))

    @property
    def default_layers(self) -> tuple[str, ...]:
        """The projector, whose maps the decoder reads."""
        return (PROJECTOR,)

    @property
    def reshape_transform(self) -> ReshapeTransform:
        return fpn_reshape_transform

    def describe(self) -> dict[str, Any]:
        """Also the variant and its resolution."""
        return {
            **super(TransformersAdapter, self).describe(),
            "variant": type(self.predictor).__name__,
            "resolution": self.predictor.model.resolution,
        }

    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        """The detections of ``model.predict(image, threshold=score_threshold)``."""
        check_score_threshold(score_threshold)
        with self.borrowed(), torch.no_grad():
            found = self.predictor.predict(load_image(image), threshold=score_threshold, include_source_image=False)
        boxes, scores, labels = (torch.from_numpy(part) for part in (found.xyxy, found.confidence, found.class_id))
        return Detections(boxes, scores, labels, self.class_names)

    def _detections(self, features: Features, score_threshold: float) -> Detections:
        with self._putting_out(features):
            return self.detect(features.inputs.original, score_threshold)

    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        side = self.predictor.model.resolution
        tensors = [self._resized(array, side) for array in arrays]
        batch = normalize(torch.stack(tensors), self.predictor.means, self.predictor.stds)
        geometries = tuple(Geometry(array.shape[:2], (side, side), (side, side), **self._cells) for array in arrays)
        return Inputs(batch.to(self.dtype), geometries, as_uint8(arrays))

    def _resized(self, array: npt.NDArray[np.generic], side: int) -> Tensor:
        pixels: Tensor = resize(to_tensor(array).to(self.device), [side, side], antialias=False)  # type: ignore[arg-type]
        return pixels

    def _forward(self, inputs: Inputs) -> Candidates:
        outputs = self._outputs(inputs)
        sizes = [geometry.image_size for geometry in inputs.geometries]
        centre, sides = outputs["pred_boxes"].split(2, -1)
        boxes = torch.cat([centre, sides.clamp(min=0)], -1)
        found = query_candidates(outputs["pred_logits"], boxes, sigmoid_scores, sizes)
        ends = sides_of(tuple(sizes), boxes.device, boxes.dtype)
        return replace(found, boxes=torch.minimum(found.boxes.clamp(min=0), ends[:, None, None]))

    def _outputs(self, inputs: Inputs) -> Any:
        return self.model(inputs.tensor)

    def _modules_before(self, layers: Sequence[str]) -> tuple[str, ...]:
        in_encoder = any(layer == ENCODER or layer.startswith((f"{ENCODER}.", "backbone.1")) for layer in layers)
        return () if in_encoder or set(layers) & {"backbone", "backbone.0"} else (ENCODER,)

    def changed_parts(self) -> Changes:
        """Changes of how the model makes detections; candidates come of the network's own pass, changed or not."""
        predictor = self.predictor
        own = {"model.predict": predictor.predict, "model.model.postprocess": predictor.model.postprocess.forward}
        return {
            name: method
            for name, method in own.items()
            if not getattr(getattr(method, "__func__", None), "__module__", "").startswith(f"{PACKAGE}.")
        }


def _check(model: Any) -> None:
    detr = importlib.import_module(f"{PACKAGE}.detr")
    if not isinstance(model, detr.RFDETR):
        kind = type(model)
        raise TypeError(
            f"model must be an rfdetr.RFDETR, which knows how images are prepared, got {kind.__module__}."
            f"{kind.__qualname__}; pass the RFDETR that holds it"
        )
    if getattr(model.model.args, "use_grouppose_keypoints", False):
        raise TypeError(f"model must detect or segment, got {type(model).__name__}, whose scores weigh key points")
    if model._is_optimized_for_inference or model.model.model is None:
        raise ValueError("model must not be optimised for inference; call model.remove_optimized_model() first")
    if model.model_config.num_channels != 3:
        raise ValueError(f"model must take RGB images, got one for {model.model_config.num_channels} channels")


def _own_names(model: Any) -> Mapping[int, str]:
    """Label -> name, as ``predict`` has it: COCO's category numbers for COCO's own weights, else from 0."""
    coco = importlib.import_module(f"{PACKAGE}.assets.coco_classes")
    names = list(model.class_names)
    if names == list(coco.COCO_CLASS_NAMES) and getattr(model.model.args, "num_classes", len(names)) > len(names):
        numbers: Sequence[int] = list(coco.COCO_CLASSES)
        return dict(zip(numbers, names, strict=False))
    return dict(enumerate(names))
