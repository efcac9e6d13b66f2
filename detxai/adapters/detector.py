"""What every detector family must supply, and what it then gets for nothing."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.adapters.borrowing import borrowed, borrowed_afresh
from detxai.adapters.changes.own_answer import Changes, check_candidates, check_levels
from detxai.adapters.layers import capture, find_layer, level_names, replaced
from detxai.adapters.remembering import remembered
from detxai.adapters.views.box_scalar import BoxScalar, box_scalar
from detxai.detections import Candidates, Detections
from detxai.geometry import Geometry
from detxai.images import Image, load_image, to_uint8
from detxai.reshape import ReshapeTransform
from detxai.targets import ClassScoreTarget, Target

if TYPE_CHECKING:
    from detxai.adapters.sliced.parts import ImageParts


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images as the model reads them.

    Attributes:
        tensor: (B, 3, h, w), resized and padded, on the model's device and in its dtype.
        geometries: for each image, how it was placed into ``tensor``.
        images: each original image, uint8 (H, W, 3) RGB.
    """

    tensor: Tensor
    geometries: tuple[Geometry, ...]
    images: tuple[npt.NDArray[np.uint8], ...]

    def __len__(self) -> int:
        return len(self.geometries)


@dataclass(frozen=True, eq=False)
class Features:
    """What some layers put out for a batch of images, and what is needed to go on from there.

    Attributes:
        levels: level name -> (B, C, h, w). A layer that puts out one tensor is one level under its own name; one
            that puts out a pyramid is a level for each entry, named ``layer:entry``.
        layers: the names of the layers.
        inputs: the images they come from.
        cache: what the adapter keeps to resume: the values that no change of ``levels`` can change.
    """

    levels: Mapping[str, Tensor]
    layers: tuple[str, ...]
    inputs: Inputs
    cache: Any = None

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
        return replace(
            self, levels={k: v if len(v) == batch else v.expand(batch, -1, -1, -1) for k, v in changed.items()}
        )

    @property
    def batch_size(self) -> int:
        return len(next(iter(self.levels.values())))


class Detector(ABC):
    """A detector, wrapped.

    A family supplies ``prepare``, ``detect``, ``forward`` and its default layers. Features of any layer and resuming
    from them then work by capturing and replacing that layer's output in a full pass; a family that can resume
    without the full pass overrides ``_features`` and ``_resume``.

    Args:
        model: the detector; borrowed during calls and given back as it was.
        class_names: label -> name.
    """

    family: ClassVar[str]
    has_network: ClassVar[bool] = True  # False for a detector of which nothing is known but its answers
    sees_parts: ClassVar[bool] = False  # True for one that looks at an image part by part: see ``parts``
    _remembering = False
    _prepared: Inputs | None = None  # the first image, kept by ``remembering`` alone

    def __init__(self, model: nn.Module, class_names: Mapping[int, str]) -> None:
        self.model = model
        self.class_names = dict(class_names)
        self._checked: dict[object, Changes] = {}

    @property
    @abstractmethod
    def default_layers(self) -> tuple[str, ...]:
        """The layers explained when nobody says which."""

    @property
    @abstractmethod
    def reshape_transform(self) -> ReshapeTransform:
        """Brings the output of ``default_layers`` to one (B, C, H, W) tensor."""

    @abstractmethod
    def detect(self, image: Image, score_threshold: float = 0.25) -> Detections:
        """What the model itself answers for ``image``: the boxes scored above ``score_threshold``, in [0, 1]."""

    @abstractmethod
    def _prepare(self, arrays: Sequence[npt.NDArray[Any]]) -> Inputs:
        """RGB arrays (H, W, 3), as ``detxai.images.load_image`` gives them, as the model reads them."""

    @abstractmethod
    def _forward(self, inputs: Inputs) -> Candidates:
        """The full pass: every candidate, differentiable, in original pixels."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """The model in eval mode, given back as it was; other threads that ask for it wait until then.

        Calls inside one ``with`` borrow it only once.
        """
        with borrowed(self.model):
            yield

    @contextmanager
    def borrowed_afresh(self) -> Iterator[None]:
        """As ``borrowed``; also inside it, no image answers otherwise for what the model noted of another before."""
        with borrowed_afresh(self.model):
            yield

    @contextmanager
    def remembering(self, *, heads: bool = False) -> Iterator[None]:
        """Inside, all that is asked of one image shares one pass through the layers up to ``default_layers``.

        What is asked without gradients: detections, candidates, features, methods. The answers are the same in every
        bit; what is remembered is let go at the end. The image must not be changed inside.

        Args:
            heads: share also what lies behind these layers: for detections and candidates.
        """
        with self.borrowed():
            if self._remembering:
                yield
                return
            with remembered(self.model, self.default_layers, heads=heads):
                self._remembering = True
                try:
                    yield
                finally:
                    self._remembering, self._prepared = False, None

    def prepare(self, images: Image | Sequence[Image] | Inputs) -> Inputs:
        """One image or several, as the model reads them: its own resizing, padding and normalisation."""
        if isinstance(images, Inputs):
            return images
        if not isinstance(images, (list, tuple)):
            images = [images]
        if not images:
            raise ValueError("images must not be empty")
        arrays = [load_image(image) for image in images]
        with self.borrowed(), torch.no_grad():
            if self._prepared is not None and len(arrays) == 1 and arrays[0] is self._prepared.images[0]:
                return self._prepared
            inputs = self._prepare(arrays)
            if self._remembering and self._prepared is None and len(arrays) == 1:
                self._prepared = inputs
        return inputs

    def candidates(self, images: Image | Sequence[Image] | Inputs) -> Candidates:
        """Everything the detector considers, before its last non-maximum suppression; differentiable."""
        inputs = self.prepare(images)
        with self.borrowed(), self._gradients_where_there_are():
            self._check_candidates(inputs)
            return self._forward(inputs)

    def features(self, images: Image | Sequence[Image] | Inputs, layers: Sequence[str] | str | None = None) -> Features:
        """What ``layers`` put out for ``images``, detached.

        Args:
            images: one image, several, or prepared inputs.
            layers: names as in ``model.named_modules()``; default: the adapter's ``default_layers``.

        Raises:
            LookupError: a layer is unknown, or did not run.
            ValueError: a layer's output is no (B, C, h, w) tensor, nor a dict or list of them.
        """
        names = self.layer_names(layers)
        inputs = self.prepare(images)
        with self.borrowed(), torch.no_grad():
            self._check_features(inputs, names)
            return self._features(inputs, names)

    def layer_names(self, layers: Sequence[str] | str | None = None) -> tuple[str, ...]:
        """The names that ``layers`` means: these, this one, or the adapter's ``default_layers``.

        Raises:
            TypeError, ValueError: no names.
            LookupError: a layer is unknown.
        """
        if layers is not None and not isinstance(layers, (str, list, tuple)):
            raise TypeError(f"layers must be a name or a list of names, got {type(layers).__name__}")
        names = self.default_layers if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
        if not names:
            raise ValueError("layers must name at least one layer, got none")
        for name in names:
            find_layer(self.model, name)
        return names

    def trace(self, inputs: Inputs, layers: Sequence[str]) -> tuple[Mapping[str, Tensor], Candidates]:
        """One full pass with its graph: the levels of ``layers``, and the candidates, differentiable in them.

        Raises:
            LookupError: a layer is unknown, or did not run.
            ValueError: a layer's output is no (B, C, h, w) tensor, nor a dict or list of them.
        """
        with self.borrowed(), torch.enable_grad(), capture(self.model, layers) as outputs:
            candidates = self.candidates(inputs)
        return level_names(outputs), candidates

    def resume(self, features: Features) -> Candidates:
        """The candidates that the detector would have with these features; differentiable in them."""
        with self.borrowed(), self._gradients_where_there_are():
            self._check_candidates(features.inputs)
            return self._resume(features)

    def scalar(
        self,
        detection: Detections,
        image: Image | Inputs,
        target: Callable[[Any, int], Target] = ClassScoreTarget,
        *,
        hold_proposals: bool = False,
    ) -> BoxScalar:
        """The score of one box as a module, for Captum, SHAP and any gradient tool: (B, 3, h, w) to (B,).

        Its input is ``scalar.input_tensor``, the image as ``prepare`` gives it, and versions of that. Where the box
        lies in it depends on how that image was resized and padded: another image needs a scalar of its own.

        Args:
            detection: one box of ``image``.
            image: the image, or what ``prepare`` made of it alone.
            target: from the box and its label to the question asked of it.
            hold_proposals: True lets a two-stage detector score the proposals of ``image`` in every version of it.
                Gradients never pass through proposals (torchvision detaches them, and RoIAlign has none for its
                boxes): the gradient at ``image`` is the same either way, but along a path of images the scores of
                proposals that come and go change in ways of which gradients say nothing. Integrated gradients add up
                to the difference of this scalar at both ends where proposals are held. One-stage detectors have none.

        Raises:
            TypeError: the detector is a black box, without gradients; or an argument is of the wrong kind.
            ValueError: several boxes or images, or a box outside the image.
        """
        if not self.has_network:
            raise TypeError(
                f"detector must be a network to have a differentiable scalar, got the black box "
                f"{self.describe()['model']}, which has no gradients"
            )
        return box_scalar(self, detection, self.prepare(image), target, hold_proposals=hold_proposals)

    def proposals(self, inputs: Inputs) -> object | None:
        """What the detector scores in one image, where its first stage chose it; None where it has a single stage."""
        return None

    def holding_proposals(self, proposals: object | None) -> AbstractContextManager[Any]:
        """Inside, every image is scored at these ``proposals``, which are those of one image; None: at its own."""
        return nullcontext()

    def structure(self, features: Features) -> object | None:
        """What ``detxai.adapters.structure`` can say of the network behind these features of one image, if anything.

        Called while the model is borrowed. An adapter that says nothing works too, by ``resume``; one that says
        ``NoShortcut`` gives the reason.
        """
        return None

    def parts(self, inputs: Inputs) -> ImageParts | None:
        """What the detector looks at one by one in the first of these images; None: at the image as a whole."""
        return None

    def describe(self) -> dict[str, Any]:
        """What is explained, for the record: family, class of the model, number of classes."""
        return {
            "family": self.family,
            "model": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
            "n_parameters": sum(p.numel() for p in self.model.parameters()),
            "n_classes": len(self.class_names),
        }

    def fingerprint(self) -> str | None:
        """SHA-256 of the model's parameters and buffers, the same wherever they lie; None where there are none."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if isinstance(tensor, Tensor):  # modules of one's own may keep other things beside their weights
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _gradients_where_there_are(self) -> AbstractContextManager[Any]:
        """torch records nothing that a parameter made in inference mode takes part in."""
        return torch.no_grad() if any(p.is_inference() for p in self._parameters()) else nullcontext()

    def _parameters(self) -> Iterable[nn.Parameter]:
        return self.model.parameters()

    def changed_parts(self) -> Changes:
        """What of the model somebody changed, by name, that the candidates may not follow; the adapter says where."""
        return {}

    def _check_candidates(self, inputs: Inputs) -> None:
        """Once for each change of the model: its own detections must be among the candidates.

        Asked of the first image that the model finds anything in.
        """
        changes = self.changed_parts()
        if not changes or self._checked.get("candidates") == changes:
            return
        image = inputs.images[0]
        with torch.no_grad():
            found = self._anything_found(image)
            if len(found):
                check_candidates(self._forward(self._prepare([image])), found, changes, half=self._in_half_precision)
                self._checked["candidates"] = changes

    def _check_features(self, inputs: Inputs, layers: tuple[str, ...]) -> None:
        """Once for each change of the model: layers put out the same in the pass that the model itself answers from."""
        changes = self.changed_parts()
        if not changes or self._checked.get(layers) == changes:
            return
        image = inputs.images[0]
        with capture(self.model, layers) as own:
            self.detect(image)
        levels = self._features(self._prepare([image]), layers).levels
        check_levels(levels, level_names(own), changes, half=self._in_half_precision)
        self._checked[layers] = changes

    def _anything_found(self, image: npt.NDArray[np.uint8]) -> Detections:
        """The model's own answer, down to the weakest boxes."""
        return self.detect(image, 0.0)

    @property
    def _in_half_precision(self) -> bool:
        return self.dtype.itemsize == 2 or torch.is_autocast_enabled(self.device.type)

    def _features(self, inputs: Inputs, layers: tuple[str, ...]) -> Features:
        with capture(self.model, layers) as outputs:
            self._forward(inputs)
        return Features(level_names(outputs), layers, inputs, cache=outputs)

    def _resume(self, features: Features) -> Candidates:
        inputs = features.inputs
        if features.batch_size != len(inputs):
            many = features.batch_size
            inputs = Inputs(inputs.tensor.expand(many, -1, -1, -1), inputs.geometries * many, inputs.images * many)
        with replaced(self.model, features.cache, features.levels):
            return self._forward(inputs)


def as_uint8(arrays: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.uint8], ...]:
    """The original images of ``Inputs``."""
    return tuple(to_uint8(array) for array in arrays)
