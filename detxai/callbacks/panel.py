"""What is watched: a fixed panel of images, and the boxes that are explained on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.images import Image, load_image, to_uint8
from detxai.runs.names import safe_name
from detxai.targets import ClassScoreTarget, score_targets


@dataclass(frozen=True, eq=False)
class PanelImage:
    """One image that is explained again and again while a detector learns.

    With its objects given, the same boxes are explained from the first epoch on ("what is evidence for a cat *here*?"),
    also before the detector finds anything. Without, each epoch's own detections are explained.

    Attributes:
        image: as ``detxai.explain`` takes it.
        name: for files and curves; default: the file's name.
        boxes: (N, 4) xyxy, pixels of the image: the annotated objects.
        labels: (N,) the detector's own class numbers.
        evidence: (N, H, W) bool, the pixels that decide, where that is known.

    Raises:
        ValueError: boxes, labels and evidence do not fit each other or the image.
    """

    image: Image
    name: str = ""
    boxes: Tensor | npt.ArrayLike | None = None
    labels: Tensor | npt.ArrayLike | None = None
    evidence: Tensor | npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        if not self.name and isinstance(self.image, (str, PathLike)):
            object.__setattr__(self, "name", Path(self.image).stem)
        object.__setattr__(self, "image", to_uint8(load_image(self.image)))
        if (self.boxes is None) != (self.labels is None):
            raise ValueError("boxes and labels belong together: give both, or neither")
        if self.evidence is None:
            return
        evidence = torch.as_tensor(self.evidence).bool()
        expected = (len(self.objects or []), *self.pixels.shape[:2])
        if tuple(evidence.shape) != expected:
            raise ValueError(f"evidence must have shape {expected}, one mask for each box, got {tuple(evidence.shape)}")
        object.__setattr__(self, "evidence", evidence)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The image, uint8 (H, W, 3) RGB."""
        return self.image  # type: ignore[return-value]  # __post_init__ made it an array

    @property
    def objects(self) -> Detections | None:
        """The annotated objects, with score 1; None where they are not known."""
        if self.boxes is None or self.labels is None:
            return None
        boxes = torch.as_tensor(self.boxes, dtype=torch.float32).reshape(-1, 4)
        return Detections(boxes, torch.ones(len(boxes)), torch.as_tensor(self.labels))


def make_panel(images: Sequence[Image | PanelImage]) -> tuple[PanelImage, ...]:
    """Images as a panel, each with a name of its own that is fit for a file.

    Raises:
        TypeError, ValueError, FileNotFoundError: there are no images, or one is none.

    >>> flat = np.zeros((4, 4, 3), dtype=np.uint8)
    >>> [item.name for item in make_panel([flat, PanelImage(flat, "a/b c")])]
    ['00', '01_a_b_c']
    """
    if isinstance(images, (str, PathLike, np.ndarray, Tensor, PanelImage)) or not isinstance(images, Sequence):
        raise TypeError(f"images must be a list of images or PanelImages, got {type(images).__name__}")
    if not images:
        raise ValueError("images must not be empty")
    items = [one if isinstance(one, PanelImage) else PanelImage(one) for one in images]
    endings = [f"_{safe_name(item.name, 60)}" if item.name else "" for item in items]
    names = [f"{place:02d}{ending}" for place, ending in enumerate(endings)]
    return tuple(replace(item, name=name) for item, name in zip(items, names))


def boxes_to_explain(detector: Detector, item: PanelImage, *, most: int, score_threshold: float) -> Detections:
    """The boxes to explain: the annotated objects, or else what the detector finds now; at most ``most``.

    An annotated object's score is what the detector still sees of it, ``ClassScoreTarget``, in [0, 1].

    Raises:
        ValueError: a label is none of the detector's.
    """
    objects = item.objects
    if objects is None:
        found = detector.detect(item.pixels, score_threshold)
        return found[found.scores.argsort(descending=True)[:most]].to("cpu")
    objects = objects[:most]
    if not len(objects):
        return replace(objects, class_names=detector.class_names)
    with torch.no_grad():
        scores = object_scores(detector, item.pixels, objects)
    return replace(objects, scores=scores.cpu().clamp(0, 1), class_names=detector.class_names)


def object_scores(detector: Detector, image: Image, objects: Detections) -> Tensor:
    """(N,) how much of each object the detector sees: the best IoU x probability of its class over all candidates."""
    return score_targets(ClassScoreTarget.of(objects), detector.candidates(image))[:, 0]
