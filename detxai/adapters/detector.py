"""A wrapped detector: what every kind has, black boxes included. Networks add layers: ``detxai.adapters.network``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.adapters.changes.own_context import ordinary_tensors
from detxai.detections import Candidates, Detections
from detxai.geometry import Geometry
from detxai.images import Array, Image, load_image, to_tensor, to_uint8

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images as the model reads them.

    Attributes:
        tensor: (B, 3, h, w), resized and padded, on the model's device and in its dtype.
        geometries: for each image, how it was placed into ``tensor``.
        images: each original image, uint8 (H, W, 3) RGB.
        originals: the images as they were loaded, where some were float and ``images`` are rounded; else empty.
    """

    tensor: Tensor
    geometries: tuple[Geometry, ...]
    images: tuple[npt.NDArray[np.uint8], ...]
    originals: tuple[Array, ...] = ()

    def __len__(self) -> int:
        return len(self.geometries)

    @property
    def original(self) -> Image:
        """The first image, as any detector takes it: a uint8 array, or a float tensor where it came as one."""
        array = self.originals[0] if self.originals else self.images[0]
        return array if array.dtype == np.uint8 else torch.from_numpy(array).permute(2, 0, 1)

    def with_tensor(self, tensor: Tensor) -> Inputs:
        """Versions of one image, (B, 3, h, w), as inputs that lie where the image does."""
        many = len(tensor)
        return replace(
            self,
            tensor=tensor,
            geometries=self.geometries * many,
            images=self.images * many,
            originals=self.originals * many,
        )

    def repeated(self, n: int) -> Inputs:
        """One image as ``n`` versions of it, without copying; inputs that are ``n`` images already stay as they are."""
        return self if n == len(self) else self.with_tensor(self.tensor.expand(n, -1, -1, -1))


@dataclass(frozen=True, eq=False)
class Features:
    """What some layers put out for a batch of images, and what is needed to go on from there.

    Handed on instead of the image, features let detections, candidates and maps share one pass through the layers
    before them.

    Attributes:
        levels: level name -> (B, C, h, w). A layer that puts out one tensor is one level under its own name; one
            that puts out a pyramid is a level for each entry, named ``layer:entry``.
        layers: the names of the layers.
        inputs: the images they come from.
        cache: what the detector keeps to resume: the values that no change of ``levels`` can change.
        autocast: whether they were computed under autocast, and so less precisely than the model computes by itself.
        is_changed: whether ``with_levels`` put other levels in.
    """

    levels: Mapping[str, Tensor]
    layers: tuple[str, ...]
    inputs: Inputs
    cache: Any = None
    autocast: bool = False
    is_changed: bool = False

    def with_levels(self, levels: Mapping[str, Tensor]) -> Features:
        """The same features with some levels changed.

        Where the inputs are one image, the new levels may hold any number of versions of it along the batch axis:
        every level then has that many, or one that serves them all.

        Raises:
            LookupError: no such level.
            ValueError: a level's channels or size differ, or the batch sizes do.
        """
        unknown = sorted(set(levels) - set(self.levels))
        if unknown:
            raise LookupError(f"level must be one of {list(self.levels)}, got {unknown}")
        changed = {**self.levels, **levels}
        for name, tensor in levels.items():
            if tensor.ndim != 4 or tensor.shape[1:] != self.levels[name].shape[1:]:
                expected = tuple(self.levels[name].shape)
                raise ValueError(f"level {name} must have shape {expected}, got {tuple(tensor.shape)}")
        batch = max(len(tensor) for tensor in changed.values())
        sizes = {len(tensor) for tensor in changed.values()}
        if sizes - {batch, 1} or (len(self.inputs) > 1 and sizes != {len(self.inputs)}):
            raise ValueError(
                f"levels must agree on the batch size, got {sorted(sizes)} for {len(self.inputs)} image(s)"
            )
        whole = {k: v if len(v) == batch else v.expand(batch, -1, -1, -1) for k, v in changed.items()}
        return replace(self, levels=whole, is_changed=True)

    @property
    def batch_size(self) -> int:
        return len(next(iter(self.levels.values())))

    @property
    def is_of_one_image(self) -> bool:
        """Whether there is one image, in one version."""
        return len(self.inputs) == 1 and self.batch_size == 1


class NoNetworkError(TypeError, AttributeError):
    """Something needs the network inside a detector that is a black box, or that runs on slices of an image."""


# what NetworkDetector has beside a Detector, and users may look for on any
NETWORK_MEMBERS = frozenset({
    "model", "default_layers", "reshape_transform", "layer_names", "features", "resume", "trace", "structure", "scalar",
})  # fmt: skip


class Detector(ABC):
    """A wrapped detector: it prepares images, detects, and gives the candidates that its detections are chosen from.

    A family supplies ``detect``, ``_prepare``, ``_forward`` and ``model_name``. A family whose network is known is a
    ``NetworkDetector``.

    Attributes:
        class_names: label -> name.
    """

    family: ClassVar[str]
    what_it_is: ClassVar[str] = "a black box"  # in messages about what it lacks
    class_names: dict[int, str]

    @abstractmethod
    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        """What the model itself answers for ``image``: the boxes scored above ``score_threshold``, in [0, 1]."""

    @abstractmethod
    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        """RGB arrays (H, W, 3), as ``detxai.images.load_image`` gives them, as the model reads them."""

    @abstractmethod
    def _forward(self, inputs: Inputs) -> Candidates:
        """The full pass: every candidate, in original pixels; differentiable where there is a network."""

    @property
    @abstractmethod
    def model_name(self) -> str:
        """What the record calls the model: a class, a function or a file."""

    @property
    def network(self) -> nn.Module | None:
        """The module that computes; None for a black box."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the inputs lie. A black box computes wherever it decides to."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the inputs."""
        return torch.float32

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """The model in eval mode, given back as it was; other threads that ask for it wait until then.

        Calls inside one ``with`` borrow it only once. A black box has no module to borrow.
        """
        with ordinary_tensors(self.device):
            yield

    @contextmanager
    def borrowed_afresh(self) -> Iterator[None]:
        """As ``borrowed``; attributes that the model set for other images inside it change no answer."""
        with self.borrowed():
            yield

    def prepare(self, images: Image | Sequence[Image] | Inputs | Features) -> Inputs:
        """One image or several, as the model reads them: its own resizing, padding and normalisation.

        Inputs stay as they are; those of features are given back.
        """
        if isinstance(images, Features):
            return images.inputs
        if isinstance(images, Inputs):
            return images
        if not isinstance(images, (list, tuple)):
            images = [images]
        if not images:
            raise ValueError("images must not be empty")
        arrays = [load_image(image) for image in images]
        with self.borrowed(), torch.no_grad():
            inputs = self._prepare(arrays)
        return inputs if all(array.dtype == np.uint8 for array in arrays) else replace(inputs, originals=tuple(arrays))

    def prepare_one(self, image: Image | Inputs | Features) -> Inputs:
        """A single image, as the model reads it.

        Raises:
            TypeError: ``image`` is a list or nothing of this kind.
            ValueError: it is inputs or features of several images.
        """
        inputs = self.prepare(image if isinstance(image, (Inputs, Features)) else [image])
        if len(inputs) != 1:
            raise ValueError(f"image must be one image, got {len(inputs)}")
        return inputs

    def candidates(self, images: Image | Sequence[Image] | Inputs | Features) -> Candidates:
        """Everything the detector considers, before its last non-maximum suppression."""
        inputs = self.prepare(images)
        with self.borrowed():
            return self._forward(inputs)

    def shared_pass(self, image: Image) -> Image | Features:
        """What to hand on where several calls about one image follow, so that they share a pass.

        For a network its features, for a black box the image itself.
        """
        return image

    def detections(self, image: Any, score_threshold: float = 0.25) -> Detections:
        """What ``detect`` answers, for an image or for what ``shared_pass`` made of it."""
        return self.detect(image, score_threshold)

    def detections_and_candidates(self, image: Any, score_threshold: float = 0.25) -> tuple[Detections, Candidates]:
        """``detections`` and ``candidates`` of one image, without gradients."""
        with self.borrowed(), torch.no_grad():
            shown = self.shared_pass(image)
            return self.detections(shown, score_threshold), self.candidates(shown)

    def describe(self) -> dict[str, Any]:
        """What is explained, for the record: at least family, model and number of classes."""
        return {"family": self.family, "model": self.model_name, "n_classes": len(self.class_names)}

    def fingerprint(self) -> str | None:
        """SHA-256 of what the detector computes with; None where that cannot be seen."""
        return None

    @property
    def _why_no_network(self) -> str:
        """For messages: why nothing can be asked of layers and gradients, and what works instead."""
        return (
            f"{self.model_name} is {self.what_it_is}: it has no layers and no gradients, and decides itself where it "
            "runs; 'detxai methods' lists what each method needs: CAMs need the network inside, d_rise needs none"
        )

    if not TYPE_CHECKING:  # type checkers are told that the members are not there

        def __getattr__(self, name: str) -> Any:
            """Called for what a detector does not have."""
            if name in NETWORK_MEMBERS and not hasattr(type(self), name):
                refuse_without_network(self)
            return object.__getattribute__(self, name)  # raises, with the usual message


def refuse_without_network(detector: Detector) -> NoReturn:
    """Raise the one error for all that needs a network.

    Raises:
        NoNetworkError: always.
    """
    raise NoNetworkError(detector._why_no_network)


def one_if_equal(items: Sequence[T]) -> Sequence[T]:
    """The first alone where all are equal, as for versions of one image, so that one row serves them all."""
    return items[:1] if len(set(items)) == 1 else items


def unresized_inputs(arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
    """Images as they are, float32 in [0, 1] on the CPU, padded below and to the right to the largest of them."""
    sizes = [(array.shape[0], array.shape[1]) for array in arrays]
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    tensor = torch.zeros(len(arrays), 3, *largest, dtype=torch.float32, device="cpu")
    for row, array in zip(tensor, arrays, strict=True):
        row[:, : array.shape[0], : array.shape[1]] = to_tensor(array)
    return Inputs(tensor, tuple(Geometry(size, largest, size) for size in sizes), as_uint8(arrays))


def as_uint8(arrays: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.uint8], ...]:
    """The original images of ``Inputs``."""
    return tuple(to_uint8(array) for array in arrays)
