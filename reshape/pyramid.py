"""Pyramids of feature maps as one tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

ReshapeTransform: TypeAlias = Callable[[Any], Tensor]


def fpn_reshape_transform(
    output: Tensor | Mapping[str, Tensor] | Sequence[Tensor], *, size: str | int = "finest", absolute: bool = False
) -> Tensor:
    """All levels of a feature pyramid, brought to one size and stacked along the channels.

    Levels may have any number, names and widths. Signs are kept, because an ablation acts on the signed features;
    grad-cam's ``fasterrcnn_reshape_transform`` takes absolute values, so that its map belongs to another network.

    Args:
        output: level name -> (B, C_l, h_l, w_l), or a list of them; a single tensor comes back as it is.
        size: ``"finest"`` or ``"coarsest"`` level, or the name (or place) of the level whose size all take.
        absolute: take absolute values first; ``size="coarsest", absolute=True`` is grad-cam's transform.

    Returns:
        (B, sum of C_l, h, w), levels in pyramid order; resized bilinearly, differentiable.

    Raises:
        TypeError: ``output`` is no tensor, dict or list of tensors.
        ValueError: a level is not (B, C, h, w), the batch sizes differ, or there is no level ``size``.

    >>> pyramid = {"0": torch.ones(1, 8, 4, 4), "pool": torch.zeros(1, 2, 1, 1)}
    >>> fpn_reshape_transform(pyramid).shape, fpn_reshape_transform(pyramid, size="pool").shape
    (torch.Size([1, 10, 4, 4]), torch.Size([1, 10, 1, 1]))
    """
    levels = _levels(output)
    height, width = _common_size(levels, size)
    resized = [
        level if level.shape[-2:] == (height, width) else F.interpolate(level, (height, width), mode="bilinear")
        for level in (level.abs() if absolute else level for level in levels.values())
    ]
    return resized[0] if len(resized) == 1 else torch.cat(resized, dim=1)


def yolo_reshape_transform(output: Tensor | Sequence[Tensor], *, size: str | int = "finest") -> Tensor:
    """A YOLO layer's output as (B, C, H, W).

    A layer's feature map is one already and comes back as it is; the head's list of inputs is brought to one size.

    Args:
        output: (B, C, h, w), or the list of them that the head reads.
        size: ``"finest"``, ``"coarsest"`` or the place of the level whose size all take.

    Raises:
        TypeError, ValueError: as ``fpn_reshape_transform``.
    """
    return fpn_reshape_transform(output, size=size)


def _levels(output: Any) -> dict[str, Tensor]:
    if isinstance(output, Tensor):
        output = [output]
    if isinstance(output, Mapping):
        levels = {str(name): level for name, level in output.items()}
    elif isinstance(output, Sequence) and not isinstance(output, str):
        levels = {str(place): level for place, level in enumerate(output)}
    else:
        raise TypeError(f"output must be a tensor, or a dict or list of pyramid levels, got {type(output).__name__}")
    if not levels:
        raise ValueError("output must have at least one level, got none")
    for name, level in levels.items():
        if not isinstance(level, Tensor):
            raise TypeError(f"level {name} must be a tensor, got {type(level).__name__}")
        if level.ndim != 4:
            raise ValueError(f"level {name} must have shape (B, C, h, w), got {tuple(level.shape)}")
    batches = {len(level) for level in levels.values()}
    if len(batches) > 1:
        raise ValueError(f"levels must agree on the batch size, got {sorted(batches)}")
    return levels


def _common_size(levels: Mapping[str, Tensor], size: str | int) -> tuple[int, int]:
    by_area = sorted(levels.values(), key=lambda level: level.shape[-2] * level.shape[-1])
    named = {**levels, "coarsest": by_area[0], "finest": by_area[-1]}
    if str(size) not in named:
        raise ValueError(f"size must be 'finest', 'coarsest' or one of {list(levels)}, got {size!r}")
    height, width = named[str(size)].shape[-2:]
    return height, width
