"""The output of a detector: ``Detections`` after non-maximum suppression, ``Candidates`` before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy.typing as npt
import torch
from torch import Tensor

ClassNames: TypeAlias = Mapping[int, str] | Sequence[str]  # label -> name, or the names of labels 0, 1, 2, ...


def _tensor(name: str, value: object, dtype: torch.dtype) -> Tensor:
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or array of numbers, got {type(value).__name__}") from error
    if dtype == torch.int64 and tensor.is_floating_point() and not bool((tensor == tensor.floor()).all()):
        raise ValueError(f"{name} must be whole numbers, got {tensor[tensor != tensor.floor()][0].item()}")
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def check_score_threshold(score_threshold: float) -> None:
    """Raise ``ValueError`` unless the threshold lies in [0, 1]; NaN does not."""
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")


def label_names(names: object) -> dict[int, str]:
    """Class names as label -> name; a sequence is taken as labels 0, 1, 2, ...

    Raises:
        TypeError: ``names`` is neither a mapping nor a sequence of names.

    >>> label_names(["-", "cat"])
    {0: '-', 1: 'cat'}
    """
    if isinstance(names, Mapping):
        return {int(label): str(name) for label, name in names.items()}
    if isinstance(names, Sequence) and not isinstance(names, str):
        return {label: str(name) for label, name in enumerate(names)}
    raise TypeError(f"class_names must map labels to names or list them, got {type(names).__name__}")


def checked_label_names(names: object, n_classes: int, *, background: bool) -> dict[int, str]:
    """Class names as label -> name, checked against the number of a detector's classes.

    A sequence names every class. A mapping may leave some out, but not so that it must be one label off.

    Args:
        names: a mapping or a sequence of names.
        n_classes: how many labels there are, the background included.
        background: label 0 is the background.

    Raises:
        TypeError: ``names`` is neither a mapping nor a sequence of names.
        ValueError: there are too few or too many names, or a label that the detector does not have.

    >>> checked_label_names(["-", "cat"], 2, background=True)
    {0: '-', 1: 'cat'}
    """
    given = label_names(names)
    order = f"{n_classes} classes, numbered from 0" + (" (the background)" if background else "")
    if not isinstance(names, Mapping) and len(given) != n_classes:
        raise ValueError(f"class_names must name each of the model's {order}; got {len(given)} names")
    unknown = sorted(label for label in given if not 0 <= label < n_classes)
    if unknown:
        raise ValueError(f"class_names must be of the model's {order}; got labels {unknown[:5]}")
    if background and set(given) == set(range(n_classes - 1)):
        raise ValueError(f"class_names must be of the model's {order}; got names for 0 to {n_classes - 2} alone")
    return given


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes that a detector reports for one image.

    Attributes:
        boxes: (N, 4) xyxy float32, pixels of the original image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, the model's own class numbers.
        class_names: label -> name; a sequence is taken as labels 0, 1, 2, ... Labels without a name show as numbers.

    Raises:
        TypeError: a field is not made of numbers.
        ValueError: a shape is wrong, a value is NaN or infinite, a box ends before it starts, a score leaves [0, 1].

    >>> found = Detections(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0.9]), torch.tensor([1]), ["-", "cat"])
    >>> len(found), found.name(0)
    (1, 'cat')
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: Mapping[int, str] = field(default_factory=dict)

    if TYPE_CHECKING:  # what may come in is wider than what the fields then are

        def __init__(
            self,
            boxes: Tensor | npt.ArrayLike,
            scores: Tensor | npt.ArrayLike,
            labels: Tensor | npt.ArrayLike,
            class_names: Mapping[int, str] | Sequence[str] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", _tensor("boxes", self.boxes, torch.float32))
        object.__setattr__(self, "scores", _tensor("scores", self.scores, torch.float32))
        object.__setattr__(self, "labels", _tensor("labels", self.labels, torch.int64))
        object.__setattr__(self, "class_names", label_names(self.class_names))
        if self.boxes.numel() == 0 and self.boxes.ndim <= 2:
            object.__setattr__(self, "boxes", self.boxes.reshape(0, 4))
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must have shape (N, 4), got {tuple(self.boxes.shape)}")
        for name in ("scores", "labels"):
            shape = tuple(getattr(self, name).shape)
            if shape != (len(self.boxes),):
                raise ValueError(f"{name} must have shape ({len(self.boxes)},) as boxes do, got {shape}")
        for name in ("boxes", "scores"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise ValueError(f"{name} must be finite, got NaN or infinity")
        backwards = (self.boxes[:, 2:] < self.boxes[:, :2]).any(1).nonzero().flatten()
        if len(backwards):
            first = int(backwards[0])
            raise ValueError(f"boxes must be xyxy with x1 <= x2 and y1 <= y2, got {self.boxes[first].tolist()}")
        if bool(((self.scores < 0) | (self.scores > 1 + 1e-6)).any()):
            raise ValueError(f"scores must lie in [0, 1], got up to {float(self.scores.abs().max()):.4g}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Detections:
        """The chosen boxes as ``Detections``; a whole number gives one of length 1."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"detection {index} of {len(self)}")
            index = [index % len(self)]
        elif not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.boxes.device)
            index = index if index.numel() else index.long()  # an empty list comes as floats
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def __str__(self) -> str:
        """A table: number, class, score, box."""
        if not len(self):
            return "no detections"
        names = [self.name(i) for i in range(len(self))]
        width = max(map(len, names))
        rows = zip(names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        return "\n".join(
            f"{i:3d}  {name:<{width}}  {score:.2f}  {' '.join(f'{side:7.1f}' for side in box)}"
            for i, (name, score, box) in enumerate(rows)
        )

    def _repr_html_(self) -> str:
        """The same table for a notebook."""
        head = "".join(f"<th>{word}</th>" for word in ("", "class", "score", "x1", "y1", "x2", "y2"))
        rows = "".join(
            f"<tr><th>{i}</th><td>{escape(self.name(i))}</td><td>{float(self.scores[i]):.2f}</td>"
            + "".join(f"<td>{side:.1f}</td>" for side in self.boxes[i].tolist())
            + "</tr>"
            for i in range(len(self))
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def name(self, index: int) -> str:
        """The class name of detection ``index``, or its number where it has none."""
        label = int(self.labels[index])
        return self.class_names.get(label, str(label))

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return replace(self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Everything a detector considered, before the last non-maximum suppression, for a batch of images.

    Dense and differentiable. Images with fewer candidates are filled up with empty boxes of score 0.

    Attributes:
        boxes: (B, N, K, 4) xyxy, pixels of each original image; K = 1, or C where each class has its own box.
        class_scores: (B, N, C) in [0, 1], the background left out.
        objectness: (B, N) in [0, 1]; how sure the detector is that there is anything at all.
        labels: (C,) int64, the label that each column of ``class_scores`` stands for; on the CPU, so that asking for a
            label never waits for the device.
        proposals: (B, N, 4) xyxy, original pixels: where each candidate started, for a target's ``reach``; None
            where candidates have no proposal.
        final: True where these are detections, already suppressed, one class each.
    """

    boxes: Tensor
    class_scores: Tensor
    objectness: Tensor
    labels: Tensor
    proposals: Tensor | None = None
    final: bool = False

    def __post_init__(self) -> None:
        if self.class_scores.ndim != 3:
            raise ValueError(f"class_scores must have shape (B, N, C), got {tuple(self.class_scores.shape)}")
        batch, n, classes = self.class_scores.shape
        if self.boxes.ndim != 4 or self.boxes.shape[:2] != (batch, n) or self.boxes.shape[2] not in (1, classes):
            raise ValueError(f"boxes must have shape ({batch}, {n}, 1 or {classes}, 4), got {tuple(self.boxes.shape)}")
        shapes: dict[str, tuple[int, ...]] = {"objectness": (batch, n), "labels": (classes,)}
        if self.proposals is not None:
            shapes["proposals"] = (batch, n, 4)
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(getattr(self, name).shape)}")
        object.__setattr__(self, "labels", self.labels.cpu())

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, image: int | slice) -> Candidates:
        """The candidates of one image of the batch, or of several, still with a batch axis."""
        if isinstance(image, int):
            if not -len(self) <= image < len(self):
                raise IndexError(f"image {image} of {len(self)}")
            image = slice(image % len(self), image % len(self) + 1)
        return replace(
            self,
            boxes=self.boxes[image],
            class_scores=self.class_scores[image],
            objectness=self.objectness[image],
            proposals=None if self.proposals is None else self.proposals[image],
        )

    def __iter__(self) -> Iterator[Candidates]:
        return (self[i] for i in range(len(self)))

    def select(self, places: Tensor) -> Candidates:
        """The candidates at these places (n,) int64 of every image."""
        return replace(
            self,
            boxes=self.boxes[:, places],
            class_scores=self.class_scores[:, places],
            objectness=self.objectness[:, places],
            proposals=None if self.proposals is None else self.proposals[:, places],
        )

    def repeat(self, n: int) -> Candidates:
        """The candidates of one image as those of n equal ones; they share its memory."""
        return replace(
            self,
            boxes=self.boxes.expand(n, -1, -1, -1),
            class_scores=self.class_scores.expand(n, -1, -1),
            objectness=self.objectness.expand(n, -1),
            proposals=None if self.proposals is None else self.proposals.expand(n, -1, -1),
        )

    @classmethod
    def cat(cls, parts: Sequence[Candidates], dim: Literal[0, 1] = 1) -> Candidates:
        """Several sets of candidates as one.

        Args:
            parts: of the same labels; all have proposals, or none has.
            dim: 1 joins the candidates of each image, 0 puts the images of one set behind those of another.

        >>> one = Candidates(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.arange(3))
        >>> Candidates.cat([one, one]).boxes.shape[:2], Candidates.cat([one, one], dim=0).boxes.shape[:2]
        (torch.Size([1, 4]), torch.Size([2, 2]))
        """
        proposals = [part.proposals for part in parts if part.proposals is not None]
        return replace(
            parts[0],
            boxes=torch.cat([part.boxes for part in parts], dim),
            class_scores=torch.cat([part.class_scores for part in parts], dim),
            objectness=torch.cat([part.objectness for part in parts], dim),
            proposals=torch.cat(proposals, dim) if proposals else None,
        )

    def of_labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes and class scores as seen by each of T labels.

        Args:
            labels: (T,) int64.

        Returns:
            Boxes (T or 1, B, N, 4) and class scores (T, B, N); where these are detections, a class that is not
            among them has score 0.

        Raises:
            ValueError: the detector has no such label.
        """
        match = labels.cpu()[:, None] == self.labels
        known = match.any(1)
        if not self.final and not bool(known.all()):
            unknown = sorted(set(labels.tolist()) - set(self.labels.tolist()))
            raise ValueError(f"label must be one of the detector's {len(self.labels)} classes, got {unknown}")
        if not self.labels.numel():
            return self.boxes[None, :, :, 0], self.objectness.new_zeros((len(labels), *self.objectness.shape))
        column = match.to(torch.int8).argmax(1).to(self.boxes.device)
        scores = self.class_scores[:, :, column].permute(2, 0, 1)
        if self.final:
            scores = scores * known[:, None, None].to(scores.device)
        boxes = self.boxes.permute(2, 0, 1, 3)
        return (boxes if len(boxes) == 1 else boxes[column]), scores

    @classmethod
    def from_output(cls, output: object) -> Candidates:
        """What a detector returned for one image, as candidates.

        Takes ``Candidates``, ``Detections`` and torchvision's output dict (``boxes``, ``scores``, ``labels``), so a
        target may stand in grad-cam's ``targets`` list for either. Gradients pass through.

        Raises:
            TypeError: ``output`` is none of these.
        """
        if isinstance(output, Candidates):
            return output
        if isinstance(output, Detections):
            boxes, scores, labels = output.boxes, output.scores, output.labels
        elif isinstance(output, Mapping) and {"boxes", "scores", "labels"} <= set(output):
            boxes, scores, labels = output["boxes"], output["scores"], output["labels"]
        else:
            raise TypeError(
                "a target takes Candidates, Detections or a torchvision output dict of one image, got "
                f"{type(output).__name__}; for other models use detxai.adapters.GradCamView"
            )
        classes = labels.unique()
        one_hot = (labels[:, None] == classes).to(scores.dtype)
        return cls(boxes[None, :, None], (scores[:, None] * one_hot)[None], scores[None], classes, final=True)
