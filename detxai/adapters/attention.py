"""What each query of a detector reads of each place of an image: the contract between adapters and the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.network import require_network
from detxai.detections import Candidates
from detxai.images import Image

TOLERANCE = 8  # roundings of the model's own precision, at least those of 1e-3


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """One layer of attention, after a pass with gradients.

    Attributes:
        name: as in ``model.named_modules()``.
        values: (1, S, C), what the places and whatever else is attended to have to give.
        reads: (1, N, C), what each of N readers got of them: the sum over places of weight times value, head by head.
        grids: (height, width) of the levels that the places lie in, in the order of ``values``.
        first_place: how many rows of ``values`` come before the places.
        first_query: how many rows of ``reads`` come before the queries.
    """

    name: str
    values: Tensor
    reads: Tensor
    grids: tuple[tuple[int, int], ...]
    first_place: int = 0
    first_query: int = 0

    def weights(self, query: int) -> Tensor:
        """(S,) how much of each row of ``values`` goes into this query's read, averaged over heads.

        Attention reads a sum of values with weights that do not depend on them, so the derivative by a value *is* its
        weight: the softmax of dense attention, or the weights of deformable attention's points, each shared out by
        bilinear interpolation over the four cells around its point.

        Raises:
            ValueError: what was read is no such sum, so that there are no weights.
        """
        read = self.reads[0, self.first_query + query]
        (derivative,) = torch.autograd.grad(read.sum(), self.values, retain_graph=True)
        derivative = derivative[0].float()
        parts = derivative * self.values[0].detach().float()
        precision = torch.finfo(read.dtype)
        size = parts.abs().sum() + len(read) * precision.tiny
        off = (parts.sum() - read.detach().float().sum()).abs()
        if bool(off > max(TOLERANCE * precision.eps, 1e-3) * size):
            raise ValueError(f"layer {self.name!r} must read a weighted sum of values to have attention weights")
        return derivative.mean(-1)


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of a detector's queries in one image.

    Attributes:
        candidates: of the image: one for each query, in their order.
        inputs: the image as the model takes it.
        layers: those through which queries read places.
    """

    candidates: Candidates
    inputs: Inputs
    layers: tuple[AttentionLayer, ...]

    def maps(self, query: int) -> list[Tensor]:
        """A (h, w) map for each level, averaged over layers and heads; together they sum to 1 at most.

        What is missing to 1 was read outside the image, or of other tokens.
        """
        grids = self.layers[0].grids
        levels = [torch.zeros(grid, device=self.inputs.tensor.device) for grid in grids]
        for layer in self.layers:
            weights = layer.weights(query).float()[layer.first_place :]
            sizes = [height * width for height, width in grids]
            for level, cells in zip(levels, weights[: sum(sizes)].split(sizes), strict=True):
                level += cells.view_as(level) / len(self.layers)
        return levels


def has_attention(detector: Detector | type[Detector]) -> bool:
    """Whether a detector, or an adapter's class, can tell the attention of its queries."""
    return callable(getattr(detector, "attention", None))


def attention_of(detector: Detector, image: Image | Features) -> Attention:
    """The attention of the detector's queries in an image; call it while the model is borrowed.

    Raises:
        TypeError: the detector has no attention.
        ValueError: the model runs without gradients, which tell the weights.
    """
    asked: Callable[[Inputs], Attention] | None = getattr(detector, "attention", None)
    if asked is not None:
        return asked(detector.prepare(image))
    model = require_network(detector).model
    raise TypeError(
        "detector must have queries that attend to places of the image, as DETR and its relatives, got a "
        f"{type(model).__name__} (family {detector.family!r}), which has no such attention"
    )
