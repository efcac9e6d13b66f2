"""A detector as gradient tools want it: a module from prepared images to the score of a box."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from detxai.adapters.detector import Inputs
from detxai.adapters.layers import hooks_removed
from detxai.detections import Candidates, Detections
from detxai.targets import ClassScoreTarget, Target, ask_about, score_targets


class ScoredDetector(Protocol):
    """What these modules need of a ``NetworkDetector``, which makes them."""

    @property
    def network(self) -> nn.Module: ...

    def candidates(self, images: Any) -> Candidates: ...

    def proposals(self, inputs: Inputs) -> object | None: ...

    def holding_proposals(self, proposals: object | None) -> AbstractContextManager[Any]: ...

    def borrowed(self) -> AbstractContextManager[Any]: ...


class BoxScores(nn.Module):
    """From versions of one prepared image to the scores of T boxes in it: (B, 3, h, w) to (B, T).

    The user's model is no submodule of this one: ``train``, ``zero_grad``, ``to`` and hooks stop here, and every call
    borrows the model and gives it back. ``hookable`` lends the model's own modules to tools that need them.

    Args:
        detector: from ``detxai.wrap``.
        inputs: one image, prepared. Where the boxes lie in the module's input is known from it alone.
        targets: T questions.
        hold_proposals: see ``detxai.adapters.network.NetworkDetector.scalar``.

    Attributes:
        n_passes: how many images the detector has been shown so far.

    Raises:
        ValueError: ``inputs`` are several images.
    """

    def __init__(
        self, detector: ScoredDetector, inputs: Inputs, targets: Sequence[Target], *, hold_proposals: bool = False
    ) -> None:
        super().__init__()
        if len(inputs) != 1:
            raise ValueError(f"image must be one image, got {len(inputs)}")
        # a tuple, so that nn.Module does not make the user's model a part of this one
        self._asked = (detector, inputs, tuple(targets))
        self._proposals = detector.proposals(inputs) if hold_proposals else None
        self.n_passes = 0 if self._proposals is None else 1

    @property
    def input_tensor(self) -> Tensor:
        """(1, 3, h, w): the image itself, as the module takes it."""
        return self._asked[1].tensor

    def forward(self, tensor: Tensor) -> Tensor:
        """(B, T), differentiable in ``tensor`` (B, 3, h, w): versions of the image, as ``input_tensor`` holds it.

        Raises:
            TypeError, ValueError: ``tensor`` is no batch like ``input_tensor``, or a label is not the detector's.
        """
        detector, inputs, targets = self._asked
        self._check(tensor)
        images = inputs.with_tensor(tensor.clone())  # a copy: what runs first in the detector may write into it
        self.n_passes += len(tensor)
        with detector.holding_proposals(self._proposals):
            return score_targets(targets, detector.candidates(images)).T

    def to_image(self, maps: Tensor) -> Tensor:
        """Maps (..., h, w) over the module's input, as maps (..., H, W) over the original image whose sums are theirs.

        See ``detxai.geometry.Geometry.amounts_to_image``.
        """
        return self._asked[1].geometries[0].amounts_to_image(maps)

    def each(self) -> list[BoxScalar]:
        """The T scores as modules of their own, at the same proposals."""
        detector, inputs, targets = self._asked
        alone = [BoxScalar(detector, inputs, [target]) for target in targets]
        for scalar in alone:
            scalar._proposals = self._proposals
        return alone

    @contextmanager
    def hookable(self) -> Iterator[nn.Module]:
        """A module that computes the same, and whose submodule ``network`` is the user's model itself.

        For tools that place hooks on activations: Captum's ``DeepLift``, ``GuidedBackprop`` and ``Deconvolution``.
        Inside the ``with`` the model is borrowed; at its end, also by an exception or Ctrl-C, the hooks placed inside
        and the attributes noted on its modules are gone.
        """
        detector = self._asked[0]
        with detector.borrowed(), hooks_removed(detector.network):
            yield _WithNetwork(self, detector.network)

    def _check(self, tensor: Tensor) -> None:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensor must be a tensor like input_tensor, got {type(tensor).__name__}")
        own = self.input_tensor
        if tensor.ndim != 4 or tensor.shape[1:] != own.shape[1:] or len(tensor) == 0:
            expected = ", ".join(map(str, own.shape[1:]))
            raise ValueError(
                f"tensor must have shape (B, {expected}), as the image that this scalar was made for has when it is "
                f"prepared, got {tuple(tensor.shape)}; another image needs a scalar of its own"
            )
        if (tensor.dtype, tensor.device) != (own.dtype, own.device):
            raise ValueError(
                f"tensor must be {own.dtype} on {own.device}, as input_tensor is, got {tensor.dtype} on {tensor.device}"
            )


class BoxScalar(BoxScores):
    """From versions of one prepared image to the score of one box in it: (B, 3, h, w) to (B,).

    What Captum, SHAP and any gradient tool explain. Made by ``detector.scalar(detection, image)``.

    Example:
        >>> scalar = detector.scalar(detections[0], image)                         # doctest: +SKIP
        >>> found = IntegratedGradients(scalar).attribute(scalar.input_tensor)     # doctest: +SKIP
        >>> values = scalar.to_image(found.sum(1))[0]                              # doctest: +SKIP
    """

    def forward(self, tensor: Tensor) -> Tensor:
        return super().forward(tensor)[:, 0]


class _WithNetwork(nn.Module):
    """Computes what ``scores`` computes; the modules that run in it can be found, and hooked, below this one."""

    def __init__(self, scores: BoxScores, network: nn.Module) -> None:
        super().__init__()
        self._scores = (scores,)
        self.network = network

    def forward(self, tensor: Tensor) -> Tensor:
        scores: Tensor = self._scores[0](tensor)
        return scores

    def train(self, mode: bool = True) -> _WithNetwork:
        """Nothing: the network is in eval mode while it is borrowed."""
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: the gradients of the parameters are the user's."""


def box_scalar(
    detector: ScoredDetector,
    detection: Detections,
    inputs: Inputs,
    target: Callable[[Any, int], Target] = ClassScoreTarget,
    *,
    hold_proposals: bool = False,
) -> BoxScalar:
    """The module of one box's score: see ``detxai.adapters.network.NetworkDetector.scalar``.

    Raises:
        TypeError, ValueError: an argument is not of its kind, or the box does not lie in the image.
    """
    if not isinstance(detection, Detections):
        raise TypeError(f"detection must be detxai.Detections of length 1, got {type(detection).__name__}")
    if len(detection) != 1:
        raise ValueError(f"detection must be one box, such as detections[0], got {len(detection)}")
    if not callable(target):
        raise TypeError(f"target must be callable with a box and a label, got {type(target).__name__}")
    scalar = BoxScalar(detector, inputs, ask_about(detection, target), hold_proposals=hold_proposals)
    height, width = inputs.geometries[0].image_size
    x1, y1, x2, y2 = detection.boxes[0].tolist()
    if x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        box = [round(side, 2) for side in (x1, y1, x2, y2)]
        raise ValueError(f"detection must lie in the image of {width} x {height} pixels, got the box {box}")
    return scalar
