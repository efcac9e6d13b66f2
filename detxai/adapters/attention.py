"""How much each query of a detector attends to each place of an image: what adapters tell the attention method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.network import require_network
from detxai.detections import Candidates
from detxai.images import Image

TOLERANCE = 8  # units of rounding in the model's precision; at least 1e-3 in all


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """One attention layer of one pass, with the graph from its values to what was read.

    Attributes:
        name: as in ``model.named_modules()``.
        values: (1, S, C), the values of the places and of whatever else is attended to.
        reads: (1, N, C), the result for each of N queries: the sum over places of weight times value, head by head.
        grids: (height, width) of the levels that the places lie in, in the order of ``values``.
        first_place: how many rows of ``values`` come before those of the places.
        first_query: how many rows of ``reads`` come before those of the queries.
    """

    name: str
    values: Tensor
    reads: Tensor
    grids: tuple[tuple[int, int], ...]
    first_place: int = 0
    first_query: int = 0

    def weights(self, query: int) -> Tensor:
        """(S,) the attention weight of each row of ``values`` for this query, averaged over heads.

        Attention computes a sum of values with weights that do not depend on them, so the derivative with respect to
        a value is its weight: the softmax of dense attention, or the weights of deformable attention's points, each
        spread by bilinear interpolation over the four cells around its point.

        Raises:
            ValueError: the result is no such sum, so that there are no weights.
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
        candidates: of the image, one for each query, in their order.
        inputs: the image as the model takes it.
        layers: the layers by which queries attend to places.
    """

    candidates: Candidates
    inputs: Inputs
    layers: tuple[AttentionLayer, ...]

    def maps(self, query: int) -> list[Tensor]:
        """A (h, w) map for each level, averaged over layers and heads; together they sum to 1 at most.

        The rest went to places outside the image, or to other tokens.
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
    """Whether a detector, or a detector's class, can tell the attention of its queries."""
    return callable(getattr(detector, "attention", None))


def attention_of(detector: Detector, image: Image | Features) -> Attention:
    """The attention of the detector's queries in an image; call it while the model is borrowed.

    Raises:
        TypeError: the detector has no attention.
        ValueError: the model runs without gradients, which tell the weights.
    """
    attention: Callable[[Inputs], Attention] | None = getattr(detector, "attention", None)
    if attention is not None:
        return attention(detector.prepare(image))
    model = require_network(detector).model
    raise TypeError(
        "detector must have queries that attend to places of the image, as DETR and its relatives, got a "
        f"{type(model).__name__} (family {detector.family!r}), which has no such attention"
    )
