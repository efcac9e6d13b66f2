"""A wrapped detector whose network is known: its layers, features and gradients."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.adapters.borrowing import borrowed, borrowed_afresh
from detxai.adapters.changes.own_answer import Changes, check_candidates, check_levels
from detxai.adapters.detector import Detector, Features, Inputs, refuse_without_network
from detxai.adapters.layers import (
    LayerRunsError,
    capture,
    find_layer,
    level_names,
    replaced,
    right_batch_norm_gradients,
    skipping,
)
from detxai.adapters.views.box_scalar import BoxScalar, box_scalar
from detxai.detections import Candidates, Detections, check_score_threshold
from detxai.images import Image
from detxai.reshape import ReshapeTransform
from detxai.targets import ClassScoreTarget, Target

log = logging.getLogger(__name__)


class NetworkDetector(Detector):
    """A detector with a network whose layers can be asked for their features.

    A family supplies ``_prepare``, ``detect``, ``_forward`` and its default layers. Features of any layer, and resuming
    from them, then work by capturing and replacing that layer's output in a full pass; a family that can resume without
    the full pass overrides ``_features``, ``_resume`` and ``_putting_out``.

    Args:
        model: the detector; borrowed during calls and given back as it was.
        class_names: label -> name.
    """

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

    @property
    def network(self) -> nn.Module:
        return self.model

    @property
    def model_name(self) -> str:
        return f"{type(self.model).__module__}.{type(self.model).__qualname__}"

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        with borrowed(self.model):
            yield

    @contextmanager
    def borrowed_afresh(self) -> Iterator[None]:
        with borrowed_afresh(self.model):
            yield

    def candidates(self, images: Image | Sequence[Image] | Inputs | Features) -> Candidates:
        """Everything the detector considers, before its last non-maximum suppression; differentiable.

        For features, the candidates that the detector would have with them: see ``resume``.
        """
        if isinstance(images, Features):
            return self.resume(images)
        inputs = self.prepare(images)
        with self.borrowed(), self._gradients_where_there_are():
            self._check_candidates(inputs)
            return self._forward(inputs)

    def features(
        self, images: Image | Sequence[Image] | Inputs | Features, layers: Sequence[str] | str | None = None
    ) -> Features:
        """What ``layers`` put out for ``images``, detached.

        Args:
            images: one image, several, or prepared inputs. Features of one image are returned as they are where they
                are those of ``layers``; else the layers run again.
            layers: names as in ``model.named_modules()``; default: the family's ``default_layers``.

        Raises:
            LookupError: a layer is unknown, or did not run.
            ValueError: a layer's output is no (B, C, h, w) tensor, nor a dict or list of them; or ``images`` are
                changed features of other layers.
        """
        names = self.layer_names(layers)
        if isinstance(images, Features):
            if images.layers == names and images.is_of_one_image and images.autocast == self._is_under_autocast:
                return images
            if images.is_changed:
                raise ValueError(
                    f"features were changed, and tell nothing about the layers {list(names)}, got those of "
                    f"{list(images.layers)}; pass the image"
                )
        inputs = self.prepare(images)
        with self.borrowed(), torch.no_grad():
            self._check_features(inputs, names)
            features = self._features(inputs, names)
        return replace(features, autocast=self._is_under_autocast)

    def shared_pass(self, image: Image) -> Image | Features:
        """What to hand on where several calls about one image follow, so that they share a pass.

        The features of ``default_layers``; the image itself where the model has no such layers, or under autocast.
        """
        if self._is_under_autocast:
            return image
        try:
            return self.features(image)
        except (LookupError, ValueError) as error:  # detecting does without features
            log.debug("no pass is shared: %s", error)
            return image

    def detections(self, image: Image | Features, score_threshold: float = 0.25) -> Detections:
        """What ``detect`` answers, for an image or from its features.

        From features the numbers are the same to the last bit, and the layers before them do not run again; where a
        family cannot resume its own pass, or somebody changed the model, the whole model runs.

        Raises:
            ValueError: the features are of several images, or of several versions of one.
        """
        if not isinstance(image, Features):
            return self.detect(image, score_threshold)
        check_score_threshold(score_threshold)
        if not image.is_of_one_image:
            raise ValueError(f"features must be of one image, got {image.batch_size}")
        with self.borrowed(), torch.no_grad():
            if (image.autocast or self._is_under_autocast) and not image.is_changed:
                return self.detect(image.inputs.original, score_threshold)  # resumed, it would round elsewhere
            return self._detections(image, score_threshold)

    def detections_and_candidates(
        self, image: Image | Features, score_threshold: float = 0.25
    ) -> tuple[Detections, Candidates]:
        """``detections`` and ``candidates`` of one image or its features, without gradients.

        They share the pass through the default layers, and the heads behind them where the family knows which these
        are and nobody changed the model.
        """
        with self.borrowed(), torch.no_grad():
            shown = image if isinstance(image, Features) else self.shared_pass(image)
            if isinstance(shown, Features) and not self.changed_parts():
                try:
                    with capture(self.model, self._heads) as outputs:
                        candidates = self.candidates(shown)
                    with skipping(self.model, outputs):
                        return self.detections(shown, score_threshold), candidates
                except LayerRunsError as error:  # a user's own heads
                    log.debug("the heads are not shared: %s", error)
            return self.detections(shown, score_threshold), self.candidates(shown)

    @property
    def _heads(self) -> tuple[str, ...]:
        """Modules that run once behind the default layers, with the same inputs in ``candidates`` and ``detect``."""
        return ()

    def layer_names(self, layers: Sequence[str] | str | None = None) -> tuple[str, ...]:
        """The names that ``layers`` means: these, this one, or the family's ``default_layers``.

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
        image: Image | Inputs | Features,
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
            TypeError: an argument is of the wrong kind.
            ValueError: several boxes or images, or a box outside the image.
        """
        return box_scalar(self, detection, self.prepare(image), target, hold_proposals=hold_proposals)

    def proposals(self, inputs: Inputs) -> object | None:
        """What the detector scores in one image, where its first stage chose it; None where it has a single stage."""
        return None

    def holding_proposals(self, proposals: object | None) -> AbstractContextManager[Any]:
        """Inside, every image is scored at these ``proposals``, which are those of one image; None: at its own."""
        return nullcontext()

    def structure(self, features: Features) -> object | None:
        """What ``detxai.adapters.structure`` can say of the network behind these features of one image, if anything.

        Called while the model is borrowed. A family that says nothing works too, by ``resume``; one that says
        ``NoShortcut`` gives the reason.
        """
        return None

    def describe(self) -> dict[str, Any]:
        """What is explained, for the record: family, class of the model, number of parameters and of classes."""
        n_parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "family": self.family,
            "model": self.model_name,
            "n_parameters": n_parameters,
            "n_classes": len(self.class_names),
        }

    def fingerprint(self) -> str | None:
        """SHA-256 of the model's parameters and buffers, the same wherever they lie."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if isinstance(tensor, Tensor):  # modules of one's own may keep other things beside their weights
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def changed_parts(self) -> Changes:
        """Which parts of the model somebody changed, by name, so that the candidates may not follow; the family knows
        where to look."""
        return {}

    def _features(self, inputs: Inputs, layers: tuple[str, ...]) -> Features:
        with capture(self.model, layers) as outputs:
            self._forward(inputs)
        return Features(level_names(outputs), layers, inputs, cache=outputs)

    def _resume(self, features: Features) -> Candidates:
        with self._putting_out(features):
            return self._forward(features.inputs.repeated(features.batch_size))

    def _detections(self, features: Features, score_threshold: float) -> Detections:
        """By the model's own pass, in which the layers put out these features."""
        with self._putting_out(features):
            return self.detect(features.inputs.original, score_threshold)

    def _putting_out(self, features: Features) -> AbstractContextManager[Any]:
        """Inside, the layers put out these features in place of their own; what runs before them may be left out."""
        return replaced(self.model, features.cache, features.levels)

    def _gradients_where_there_are(self) -> AbstractContextManager[Any]:
        """Right gradients; none where a parameter was made in inference mode, since torch records nothing then."""
        if any(p.is_inference() for p in self._parameters()):
            return torch.no_grad()
        return right_batch_norm_gradients(self.model)

    def _parameters(self) -> Iterable[nn.Parameter]:
        return self.model.parameters()

    def _check_candidates(self, inputs: Inputs) -> None:
        """Once for each change of the model: its own detections must be among the candidates.

        Checked on the first image that the model finds anything in.
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
    def _is_under_autocast(self) -> bool:
        return torch.is_autocast_enabled(self.device.type)

    @property
    def _in_half_precision(self) -> bool:
        return self.dtype.itemsize == 2 or self._is_under_autocast


def require_network(detector: Detector) -> NetworkDetector:
    """The detector, known to have layers and gradients.

    Raises:
        TypeError: it is a black box, or runs on slices of an image.
    """
    if not isinstance(detector, NetworkDetector):
        refuse_without_network(detector)
    return detector


def module_of(detector: Detector) -> nn.Module:
    """The module that a detector computes with, also where it runs on slices of an image.

    Raises:
        TypeError: it is a black box.
    """
    if detector.network is None:
        refuse_without_network(detector)
    return detector.network
