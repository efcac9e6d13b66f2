"""A detector as pytorch-grad-cam wants it: one module, layers to hook, one answer an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.adapters.detector import Detector, Features
from detxai.adapters.network import require_network
from detxai.detections import Candidates
from detxai.images import Image


class _Together(torch.autograd.Function):
    """The identity on several tensors, whose gradients arrive together.

    A level that the target does not depend on (a pyramid's last one may serve the RPN alone) would get no gradient
    at all, and grad-cam, which counts gradients instead of naming them, would take its neighbour's. Here it gets zeros.
    """

    @staticmethod
    def forward(ctx: Any, *levels: Tensor) -> tuple[Tensor, ...]:
        return tuple(level.view_as(level) for level in levels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients


class GradCamView(nn.Module):
    """A view of a detector that grad-cam's methods can explain, one image at a time.

    grad-cam flips the model it gets to eval mode, zeroes its gradients and leaves hooks on it; here all that happens
    to the view, never to the detector. The view's layers stand for the detector's levels, one each, so that
    pyramids, which put out dicts that grad-cam cannot hook, work like any layer; and gradients reach them although a
    checkpoint's parameters may not require any.

    Args:
        detector: from ``detxai.wrap``.
        image: the image to explain.
        layers: names of the detector's layers; default: the detector's own.

    Example:
        >>> view = GradCamView(detector, image)                                    # doctest: +SKIP
        >>> with GradCAM(view, view.target_layers) as cam:                         # doctest: +SKIP
        ...     (map_,) = cam(view.input_tensor, targets=ClassScoreTarget.of(detections[0]))
        >>> values = view.to_image(map_)                                           # doctest: +SKIP
    """

    def __init__(self, detector: Detector, image: Image | Features, layers: Any = None) -> None:
        super().__init__()
        # a tuple, so that nn.Module does not make the user's model a part of this one
        network = require_network(detector)
        self._detector = (network,)
        self._features = (network.features(image, layers),)
        self.target_layers = [nn.Identity() for _ in self._features[0].levels]
        self.levels = nn.ModuleList(self.target_layers)
        # grad-cam asks the first parameter for the device
        self.register_parameter("_device", nn.Parameter(torch.empty(0, device=detector.device), requires_grad=False))

    @property
    def input_tensor(self) -> Tensor:
        """(1, 3, h, w): what to call grad-cam's methods with; their maps have its size."""
        return self._features[0].inputs.tensor

    def forward(self, images: Tensor) -> list[Candidates]:
        """The candidates of each image of a batch, (B, 3, h, w).

        Where ``images`` is ``input_tensor``, repeated as often as grad-cam likes, they come of the view's layers.
        Changed images, such as Score-CAM's, go through the whole detector: no layer of the view runs.
        """
        (features,) = self._features
        if not torch.equal(images, self.input_tensor.expand_as(images)):
            return list(self._detector[0].candidates(features.inputs.with_tensor(images)))
        with torch.enable_grad():
            batch = [level.expand(len(images), -1, -1, -1) for level in features.levels.values()]
            # clones, made in order: autograd then visits them in reverse, the order in which grad-cam collects
            # by way of self.levels: grad-cam's AblationCAM puts layers of its own in there
            shown = [
                layer(level.detach().requires_grad_().clone()) for level, layer in zip(batch, self.levels, strict=True)
            ]
            levels = dict(zip(features.levels, _Together.apply(*shown), strict=True))
            return list(self._detector[0].resume(features.with_levels(levels)))

    def to_image(self, map_: npt.NDArray[np.floating[Any]] | Tensor) -> npt.NDArray[np.float32]:
        """A map that grad-cam returned, (h, w) of ``input_tensor``, as (H, W) float32 of the original image."""
        (geometry,) = self._features[0].inputs.geometries
        values = torch.as_tensor(np.asarray(map_), dtype=torch.float32)
        if tuple(values.shape) != geometry.input_size:
            raise ValueError(f"map must have the input's shape {geometry.input_size}, got {tuple(values.shape)}")
        return np.asarray(geometry.map_to_image(values).numpy(), dtype=np.float32)
