"""What RetinaNet, FCOS and SSD share: one head that reads every level, and anchors that its box outputs refer to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from detxai.adapters.changes.own_answer import Changes, changed_parts
from detxai.adapters.changes.unchanged import ChangedPartError
from detxai.adapters.detector import Features, one_if_equal
from detxai.adapters.structure import Dense, NoShortcut
from detxai.adapters.torchvision.detector import TorchvisionAdapter, class_names_of
from detxai.adapters.torchvision.one_stage_structure import Branch, anchor_decoder, require_torchvisions_own
from detxai.adapters.torchvision.pixels import boxes_to_images, image_list
from detxai.detections import Candidates
from detxai.geometry import Geometry


class OneStageAdapter(TorchvisionAdapter):
    """A torchvision detector whose candidates are all its anchors.

    The score threshold and the top-k selections of the model's post-processing are not applied to the candidates;
    every detection is one of them.

    Args:
        model: the detector.
        class_names: label -> name; default: COCO's for a model of 91 classes.

    Raises:
        TypeError: ``model`` is not of the family.
        ValueError: ``class_names`` are too few, too many or of other labels.
    """

    model_class: ClassVar[type[nn.Module]]  # torchvision's class of the family
    outputs: ClassVar[tuple[str, ...]] = ("cls_logits", "bbox_regression")  # the head's outputs by name
    n_numbers: ClassVar[int] = 4  # the head's numbers for each candidate beside its logits
    heads: ClassVar[frozenset[type[nn.Module]]]  # torchvision's classes of the family's head
    background: ClassVar[bool] = False  # whether the first class is the background

    def __init__(self, model: nn.Module, *, class_names: Mapping[int, str] | Sequence[str] | None = None) -> None:
        if not isinstance(model, self.model_class):
            raise TypeError(f"model must be a torchvision {self.model_class.__name__}, got {type(model).__name__}")
        names = class_names_of(class_names, self._n_classes(model), self._coco_names(), background=self.background)
        super().__init__(model, names)

    @staticmethod
    @abstractmethod
    def _coco_names() -> Sequence[str]:
        """The class names of torchvision's COCO weights."""

    @staticmethod
    def _n_classes(model: Any) -> int | None:
        """The number of columns of the class logits; None where the head does not say."""
        return getattr(getattr(model.head, "classification_head", None), "num_classes", None)

    @abstractmethod
    def class_scores(self, logits: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        """Class scores (..., C), as the model's own post-processing computes them.

        Args:
            logits: class logits (..., K).
            others: the head's further outputs by name, (..., D); where empty, the highest score that any could give.
        """

    def decode(self, numbers: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (n, 4) xyxy in input pixels, from numbers (n, 4) and anchors (n, 4)."""
        boxes: Tensor = self.model.box_coder.decode_single(numbers, anchors)
        return boxes

    def _placed(self, numbers: Tensor, anchors: Tensor, geometries: Sequence[Geometry]) -> Tensor:
        """Boxes (B, n, 4) in original pixels, from numbers (B, n, 4) and anchors (1 or B, n, 4)."""
        flat = anchors.expand_as(numbers).flatten(0, 1)
        boxes = self.decode(numbers.flatten(0, 1), flat).unflatten(0, numbers.shape[:2])
        return boxes_to_images(boxes[:, :, None], geometries)[:, :, 0]

    @abstractmethod
    def _branches(self, head: Any, place: int) -> tuple[Branch, Branch]:
        """The branches of torchvision's own head for the level at ``place``: of boxes (and what else), of classes."""

    @property
    def _heads(self) -> tuple[str, ...]:
        return ("head",)

    def structure(self, features: Features) -> Dense | NoShortcut | None:
        if features.layers != self.default_layers or len(features.inputs) != 1 or features.batch_size != 1:
            return None
        self._check_candidates(features.inputs)
        try:
            return self._dense(features.levels, features.inputs.geometries[0])
        except ChangedPartError as change:
            return NoShortcut(str(change))

    def _dense(self, levels: Mapping[str, Tensor], geometry: Geometry) -> Dense:
        require_torchvisions_own(self.model, self.heads)
        branches = {name: self._branches(self.model.head, place) for place, name in enumerate(levels)}
        boxes = {name: branch for name, (branch, _) in branches.items()}
        classes = {name: branch for name, (_, branch) in branches.items()}
        anchors = self.anchors(list(levels.values()), (geometry,))[0]
        per_cell = {name: len(branch[-1].weight) // self.n_numbers for name, branch in boxes.items()}
        n_logits = self._n_classes(self.model)
        if any(len(branch[-1].weight) != per_cell[name] * (n_logits or 0) for name, branch in classes.items()):
            raise ChangedPartError("head.classification_head puts out another number of classes than it says")

        def decode(numbers: Tensor, anchors: Tensor) -> Tensor:
            return self._placed(self._offsets(numbers), anchors[None], (geometry,))

        def scores(logits: Tensor, numbers: Tensor | None) -> Tensor:
            return self.class_scores(logits, {} if numbers is None else self._others(numbers))

        places = self._reach(levels, anchors, geometry)
        return Dense(
            levels,
            boxes,
            classes,
            anchor_decoder(levels, anchors, per_cell, decode),
            points=places[0] if places else None,
            widest=places[1] if places else None,
            n_logits=n_logits,
            scores=scores,
            own_logits=not self.background,
            first_label=int(self.background),
        )

    def _offsets(self, numbers: Tensor) -> Tensor:
        """The box offsets (..., 4) among the numbers (..., D) of the box branch."""
        return numbers

    def _others(self, numbers: Tensor) -> Mapping[str, Tensor]:
        """The further inputs of ``class_scores`` among these numbers."""
        return {}

    def _reach(
        self, levels: Mapping[str, Tensor], anchors: Tensor, geometry: Geometry
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None:
        """``Dense.points`` and ``Dense.widest``; None where a box may lie anywhere."""
        return None

    def changed_parts(self) -> Changes:
        """Changes of what turns the head's output into detections; candidates follow changes of all else."""
        return changed_parts({"model": self.model, "transform": self.model.transform}, "torchvision.")

    def anchors(self, levels: Sequence[Tensor], geometries: Sequence[Geometry]) -> Tensor:
        """(B, N, 4) xyxy, input pixels; B is 1 for versions of one image."""
        images = image_list(one_if_equal(geometries), levels[0])
        return torch.stack(self.model.anchor_generator(images, list(levels)))

    def _geometry(
        self, image_size: tuple[int, int], input_size: tuple[int, int], resized_size: tuple[int, int]
    ) -> Geometry:
        generator = self.model.anchor_generator
        if not isinstance(generator, DefaultBoxGenerator):
            return super()._geometry(image_size, input_size, resized_size)
        return Geometry(
            image_size, input_size, resized_size, cell_steps=tuple(float(step) for step in generator.steps or ())
        )

    def _candidates(self, pyramid: Mapping[str, Tensor], geometries: Sequence[Geometry]) -> Candidates:
        levels = list(pyramid.values())
        found = self.model.head(levels)
        missing = [name for name in self.outputs if not isinstance(found, Mapping) or name not in found]
        if missing:
            raise ValueError(f"model: its head must output {', '.join(self.outputs)}, got no {', '.join(missing)}")
        numbers = found["bbox_regression"]
        boxes = self._placed(numbers, self.anchors(levels, geometries), geometries)
        scores = self.class_scores(found["cls_logits"], {name: found[name] for name in self.outputs[2:]})
        first = int(self.background)
        return Candidates(
            boxes=boxes[:, :, None],
            class_scores=scores,
            objectness=scores.sum(-1) if self.background else scores.amax(-1),
            labels=torch.arange(first, first + scores.shape[-1]),
        )
