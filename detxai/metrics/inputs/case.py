"""What every measure is handed: the maps of one method for the detections of one image, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.metrics.inputs.maps import refuse_cropped

Redo: TypeAlias = Callable[[Detector, npt.NDArray[np.uint8], int], Tensor]
Reference = Literal["detection", "object"]
REFERENCES: tuple[Reference, ...] = ("detection", "object")


@dataclass(frozen=True)
class Quantity:
    """One number that a measure gives for each detection.

    Attributes:
        meaning: what it is, in a line.
        low, high: the values it can take.
        better: which way is better; None for a number that only stands beside another, such as a chance level.
        chance: what a map of random numbers gets on average; the name of the quantity that says so for each
            detection; or None where there is no such level.
    """

    meaning: str
    low: float
    high: float
    better: Literal["higher", "lower"] | None
    chance: float | str | None = None


class Measure(Protocol):
    """A small frozen dataclass of settings; called with a case, it gives its quantities."""

    name: ClassVar[str]
    quantities: ClassVar[Mapping[str, Quantity]]

    def __call__(self, case: Case) -> dict[str, Tensor]:
        """Each quantity as (T,) float32; NaN for a detection it does not apply to."""


@dataclass(frozen=True, eq=False)
class Objects:
    """What is annotated in one image.

    Attributes:
        boxes: (G, 4) xyxy, pixels of the original image.
        labels: (G,) the detector's own class numbers.
        masks: (G, H, W) bool; None where only boxes are annotated.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", torch.as_tensor(self.boxes, dtype=torch.float32).reshape(-1, 4))
        object.__setattr__(self, "labels", torch.as_tensor(self.labels, dtype=torch.int64))
        if self.labels.shape != (len(self),):
            raise ValueError(f"labels must have shape ({len(self)},) as boxes do, got {tuple(self.labels.shape)}")
        if self.masks is not None:
            object.__setattr__(self, "masks", torch.as_tensor(self.masks, dtype=torch.bool))
            if self.masks.ndim != 3 or len(self.masks) != len(self):
                raise ValueError(f"masks must have shape ({len(self)}, H, W), got {tuple(self.masks.shape)}")

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class Case:
    """The maps that one method made for the T detections of one image, and what is known of that image.

    Everything is brought to the detector's device. What is not known is None, and a measure that needs it gives NaN.

    Attributes:
        detector: what was explained.
        image: uint8 (H, W, 3) RGB.
        detections: of length T.
        maps: (T, H, W) float32, raw and signed, pixels of the original image.
        objects: what is annotated.
        object_of: (T,) int64, which annotated object each detection is of; -1: none.
        evidence: (T, H, W) bool, the pixels that decided, where the image was made so that they are known; all False
            for a detection without any.
        causes: for each detection (n_causes, H, W) bool, the parts of its evidence; n_causes may be 0.
        redo: the same method again, ``(detector, image, seed) -> (T, H, W)``: on a perturbed image, a detector with
            other weights, or with another seed.
        allow_cropped: take also maps that are exactly zero outside their box: for maps that are perfect by
            construction, such as a planted mask or the box itself as a baseline.

    Raises:
        ValueError: a shape does not fit, a map is not finite, or a map was cropped to its box.
    """

    detector: Detector
    image: npt.NDArray[np.uint8]
    detections: Detections
    maps: Tensor
    objects: Objects | None = None
    object_of: Tensor | None = None
    evidence: Tensor | None = None
    causes: Sequence[Tensor] | None = None
    redo: Redo | None = None
    allow_cropped: bool = field(default=False, kw_only=True)

    @classmethod
    def from_explanations(
        cls, detector: Detector, explanations: Sequence[Explanation], detections: Detections, **known: Any
    ) -> Case:
        """The case of a method's explanations.

        Args:
            detector: what was explained.
            explanations: one for each detection, in their order; one that asks about no box serves them all.
            detections: of one image.
            known: the other attributes of a case.

        Raises:
            ValueError: there is neither one explanation for each detection nor one for all; they are of several
                images; or one is of another detection.
        """
        explanations = list(explanations)
        for_all = len(explanations) == 1 and explanations[0].detection is None
        if for_all:
            explanations = explanations * max(len(detections), 1)
        elif len(explanations) != len(detections) or not explanations:
            raise ValueError(
                f"explanations must be one for each of {len(detections)} detections, got {len(explanations)}"
            )
        image = explanations[0].image
        for i, explanation in enumerate(explanations):
            if explanation.image.shape != image.shape or not np.array_equal(explanation.image, image):
                raise ValueError(f"explanations must be of one image, but number {i} is of another one than number 0")
            if not for_all and explanation.detection is not None:
                _check_same(i, explanation.detection, detections[i])
        maps = np.stack([explanation.values for explanation in explanations])
        return cls(detector, image, detections, torch.from_numpy(maps)[: len(detections)], **known)

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 (H, W, 3), got {self.image.dtype} {self.image.shape}")
        device = self.detector.device
        object.__setattr__(self, "detections", self.detections.to(device))
        object.__setattr__(self, "maps", torch.as_tensor(self.maps).detach().to(device, torch.float32))
        self._check("maps", self.maps, (len(self), *self.size))
        if not bool(torch.isfinite(self.maps).all()):
            raise ValueError("maps must be finite, got NaN or infinity")
        self._place_what_is_known(device)
        if not self.allow_cropped:
            refuse_cropped(self.maps, self.detections.boxes)

    def _place_what_is_known(self, device: torch.device) -> None:
        if self.evidence is not None:
            object.__setattr__(self, "evidence", torch.as_tensor(self.evidence).to(device, torch.bool))
            self._check("evidence", self.evidence, (len(self), *self.size))
        if self.causes is not None:
            causes = tuple(torch.as_tensor(masks).to(device, torch.bool) for masks in self.causes)
            object.__setattr__(self, "causes", causes)
            if len(causes) != len(self):
                raise ValueError(f"causes must be of {len(self)} detections, got {len(causes)}")
            for i, masks in enumerate(causes):
                self._check(f"causes[{i}]", masks, (len(masks), *self.size))
        if self.objects is None:
            return
        drawn = None if self.objects.masks is None else self.objects.masks.to(device)
        if drawn is not None:
            self._check("objects.masks", drawn, (len(self.objects), *self.size))
        placed = Objects(self.objects.boxes.to(device), self.objects.labels.to(device), drawn)
        object.__setattr__(self, "objects", placed)
        if self.object_of is not None:
            object.__setattr__(self, "object_of", torch.as_tensor(self.object_of).to(device, torch.int64))
            self._check("object_of", self.object_of, (len(self),))
            if bool(((self.object_of < -1) | (self.object_of >= len(placed))).any()):
                raise ValueError(f"object_of must lie in [-1, {len(placed)}), got {self.object_of.tolist()}")

    def _check(self, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")

    def __len__(self) -> int:
        return len(self.detections)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def known_object(self) -> Tensor:
        """(T,) bool: which detections are of an annotated object."""
        if self.objects is None or self.object_of is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.maps.device)
        return self.object_of >= 0

    def reference(self, reference: Reference) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes (T, 4) and labels (T,) measured against, and for which detections there are any (T,) bool.

        Args:
            reference: ``"detection"``: what the detector said; ``"object"``: what is annotated.
        """
        if reference not in REFERENCES:
            raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
        boxes, labels = self.detections.boxes, self.detections.labels
        if reference == "detection":
            return boxes, labels, torch.ones_like(labels, dtype=torch.bool)
        known = self.known_object
        if self.objects is None or self.object_of is None or not len(self.objects):
            return boxes, labels, known
        place = self.object_of.clamp(min=0)
        boxes = torch.where(known[:, None], self.objects.boxes[place], boxes)
        return boxes, torch.where(known, self.objects.labels[place], labels), known

    def object_masks(self) -> tuple[Tensor, Tensor]:
        """The masks (T, H, W) bool of the detections' objects, and for which detections there is one (T,) bool."""
        known = self.known_object
        if self.objects is None or self.object_of is None or self.objects.masks is None or not len(self.objects):
            return torch.zeros_like(self.maps, dtype=torch.bool), torch.zeros_like(known)
        return self.objects.masks[self.object_of.clamp(min=0)] & known[:, None, None], known


def _check_same(place: int, explained: Detections, detection: Detections) -> None:
    boxes = explained.boxes.cpu(), detection.boxes.cpu()
    if not torch.equal(*boxes) or not torch.equal(explained.labels.cpu(), detection.labels.cpu()):
        raise ValueError(
            f"explanation {place} must be of detection {place}, {detection.name(0)} at {boxes[1][0].tolist()}, "
            f"got one of {explained.name(0)} at {boxes[0][0].tolist()}"
        )
