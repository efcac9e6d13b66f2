"""A one-stage head as data for the ablation engine, where it is torchvision's own and not a user's variant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.ops.misc import Conv2dNormActivation, FrozenBatchNorm2d

from detxai.adapters.changes.unchanged import ChangedPartError, require_unchanged
from detxai.adapters.convolutions import ACTIVATIONS, as_convolution, flattened
from detxai.adapters.structure import Convolution

Branch = tuple[Convolution, ...]
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d, nn.GroupNorm)
LAYERS = frozenset({nn.ModuleList, nn.Sequential, Conv2dNormActivation, nn.Conv2d, *NORMS, *ACTIVATIONS})


def require_torchvisions_own(model: Any, heads: Iterable[type[nn.Module]]) -> None:
    """Check that the parts which the structure describes are torchvision's own, and unchanged.

    Args:
        model: the detector.
        heads: torchvision's classes of the family's head.

    Raises:
        ChangedPartError: one was changed, or is not torchvision's.
    """
    require_unchanged("head", model.head, LAYERS | set(heads))
    require_unchanged("box_coder", model.box_coder, {BoxCoder, BoxLinearCoder})
    require_unchanged("anchor_generator", model.anchor_generator, {AnchorGenerator, DefaultBoxGenerator})


def branch_of(name: str, *parts: nn.Module) -> Branch:
    """The convolutions of a branch, from layers that follow one another and are known to be unchanged.

    Raises:
        ChangedPartError: they are no chain of convolutions with normalisations and activations, the last without.
    """
    chain = tuple(_convolutions(name, [layer for part in parts for layer in flattened(part)]))
    mixing = next((place for place, part in enumerate(chain) if part.groups == 1), len(chain))
    if mixing > 1 or mixing == len(chain) or chain[-1].activation is not None or not chain[-1].place_by_place:
        raise ChangedPartError(f"{name} is no chain of convolutions of which the first or second mixes the channels")
    if not chain[0].place_by_place and mixing == 1:
        raise ChangedPartError(f"{name} normalises its channels over the level before it mixes them")
    return chain


def side_by_side(first: Branch, second: Branch) -> Branch:
    """Two branches that differ in their last convolution only, as one branch whose last computes both."""
    last, other = first[-1], second[-1]
    if last.weight.shape[1:] != other.weight.shape[1:] or last.groups != 1 or other.groups != 1:
        raise ChangedPartError("head.regression_head predicts boxes and centreness by convolutions of two kinds")
    weight, bias = torch.cat([last.weight, other.weight]), torch.cat([last.bias, other.bias])
    return (*first[:-1], Convolution(weight, bias))


def anchor_decoder(
    levels: Mapping[str, Tensor],
    anchors: Tensor,
    per_cell: Mapping[str, int],
    decode: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[str, Tensor, Tensor], Tensor]:
    """``Dense.decode``, from anchors (N, 4) that follow one another level by level, row by row, cell by cell.

    Args:
        per_cell: level -> anchors of a cell.
        decode: numbers (B, m, D) and anchors (m, 4) -> (B, m, 4) xyxy, original pixels.
    """
    sizes = [level[0, 0].numel() * per_cell[name] for name, level in levels.items()]
    if sum(sizes) != len(anchors):
        raise ChangedPartError(f"anchor_generator gives {len(anchors)} anchors where the head answers for {sum(sizes)}")
    of_level = dict(zip(levels, anchors.split(sizes), strict=True))

    def decoded(level: str, numbers: Tensor, cells: Tensor) -> Tensor:
        n = per_cell[level]
        of_cells = of_level[level].unflatten(0, (-1, n))[cells].flatten(0, 1)
        return decode(numbers.unflatten(1, (n, -1)).permute(0, 3, 1, 2).flatten(1, 2), of_cells)

    return decoded


def _convolutions(name: str, layers: Sequence[nn.Module]) -> Iterator[Convolution]:
    place = 0
    while place < len(layers):
        conv = layers[place]
        if type(conv) is not nn.Conv2d:
            raise ChangedPartError(f"{name} has a {type(conv).__qualname__} where a convolution is expected")
        place += 1
        norm = activation = None
        if place < len(layers) and type(layers[place]) in NORMS:
            norm, place = layers[place], place + 1
        if place < len(layers) and type(layers[place]) in ACTIVATIONS:
            activation, place = ACTIVATIONS[type(layers[place])], place + 1
        yield as_convolution(name, conv, norm, activation)
