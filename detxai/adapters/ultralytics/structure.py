"""A YOLO head as data for the ablation engine, where it is ultralytics' own and not a user's variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detxai.adapters.changes.unchanged import ChangedPartError, require_unchanged
from detxai.adapters.convolutions import ACTIVATIONS, as_convolution, flattened
from detxai.adapters.structure import Convolution, Dense, NoShortcut
from detxai.adapters.ultralytics.checkpoint import ultralytics_module
from detxai.adapters.ultralytics.head import anchor_points, decoding_dtype, upright_boxes
from detxai.adapters.ultralytics.letterbox import boxes_to_images
from detxai.geometry import Geometry


def dense(
    head: Any, levels: Mapping[str, Tensor], *, one2one: bool, strides: Sequence[float], geometry: Geometry
) -> Dense | NoShortcut:
    """The structure of a head with upright boxes, ``Detect`` or a subclass, where every part is ultralytics' own.

    Args:
        head: the head.
        levels: the head's inputs: level name -> (1, C, h, w), in its order.
        one2one: whether the candidates come from the one-to-one branch.
        strides: input pixels per cell, for each level.
        geometry: how the image lies in the model's input.
    """
    try:
        return _dense(head, levels, one2one=one2one, strides=strides, geometry=geometry)
    except ChangedPartError as change:
        return NoShortcut(str(change))


def _dense(
    head: Any, levels: Mapping[str, Tensor], *, one2one: bool, strides: Sequence[float], geometry: Geometry
) -> Dense:
    place = f"model.{head.i}"
    require_unchanged(place, head, {type(head)}, inside=False)  # head_task knows its type; masks are no part of it
    branch = head.one2one if one2one else head.one2many
    boxes = _branches(f"{place}.{'one2one_' if one2one else ''}cv2", branch["box_head"])
    classes = _branches(f"{place}.{'one2one_' if one2one else ''}cv3", branch["cls_head"])
    reach = _longest_distance(f"{place}.dfl", head)
    if not len(levels) == len(boxes) == len(classes):
        raise ChangedPartError(f"{place} has {len(boxes)} and {len(classes)} branches for {len(levels)} levels")
    places = {
        name: anchor_points([level], (stride,), decoding_dtype(level.dtype))
        for (name, level), stride in zip(levels.items(), strides, strict=True)
    }

    def decode(level: str, numbers: Tensor, cells: Tensor) -> Tensor:
        points, sizes = places[level]
        distances = _distances(head, numbers)
        boxes = upright_boxes(distances, points[:, cells], sizes[cells], ordered=head.reg_max > 1)
        return boxes_to_images(boxes, (geometry,))

    def placed(distance: float) -> dict[str, Tensor]:
        """For each cell, the box whose sides all lie this many cells from its anchor point."""
        corners = {
            name: torch.cat([points - distance, points + distance]) * sizes for name, (points, sizes) in places.items()
        }
        return {name: boxes_to_images(corner.t()[None], (geometry,))[0] for name, corner in corners.items()}

    return Dense(
        levels,
        dict(zip(levels, boxes, strict=True)),
        dict(zip(levels, classes, strict=True)),
        decode,
        points=placed(0.0) if reach else None,
        widest=placed(reach) if reach else None,
    )


def _longest_distance(name: str, head: Any) -> float:
    """The largest distance of a side from its anchor point, in cells; 0 where distances are unbounded or negative."""
    if head.reg_max == 1:
        require_unchanged(name, head.dfl, {nn.Identity})
        return 0.0
    own = ultralytics_module("nn.modules.block").DFL
    require_unchanged(name, head.dfl, {own, nn.Conv2d})
    if type(head.dfl) is not own or head.dfl.conv.bias is not None:
        raise ChangedPartError(f"{name} is no mean of a distribution over whole distances")
    weight = head.dfl.conv.weight
    if weight.shape != (1, head.reg_max, 1, 1):
        raise ChangedPartError(f"{name} has weights of shape {tuple(weight.shape)} for {head.reg_max} distances")
    return float(weight.max()) if float(weight.min()) >= 0 else 0.0


def _distances(head: Any, numbers: Tensor) -> Tensor:
    """(B, 4, n) cells from the anchor point to the four sides: the mean of a distribution over whole distances."""
    if head.reg_max == 1:
        return numbers.to(decoding_dtype(numbers.dtype))
    shares = numbers.unflatten(1, (4, head.reg_max)).softmax(2)
    distances = head.dfl.conv.weight.detach().flatten()[:, None].to(shares.dtype)
    return (shares * distances).sum(2).to(decoding_dtype(numbers.dtype))


def _branches(name: str, layers: Any) -> list[tuple[Convolution, ...]]:
    """For each level, the convolutions of the branch that reads it."""
    own = ultralytics_module("nn.modules.conv")
    layer_types = {nn.ModuleList, nn.Sequential, own.Conv, own.DWConv, nn.Conv2d, nn.BatchNorm2d, *ACTIVATIONS}
    require_unchanged(name, layers, layer_types, may_replace=(own.Conv.forward_fuse,))
    return [_branch(f"{name}.{place}", level) for place, level in enumerate(layers)]


def _branch(name: str, layers: nn.Module) -> tuple[Convolution, ...]:
    chain = tuple(_convolution(name, layer) for layer in flattened(layers))
    if len(chain) >= 3:
        mixing = chain[0] if chain[0].groups == 1 else chain[1]
        last = chain[-1]
        whole = mixing.groups == last.groups == 1 and last.weight.shape[-1] == 1 and last.activation is None
        if whole and last is not mixing:
            return chain
    raise ChangedPartError(f"{name} is no chain of convolutions that ends with one of 1x1")


def _convolution(name: str, layer: Any) -> Convolution:
    """One layer, already known to be unchanged, as a convolution with its normalisation folded in."""
    if type(layer) is nn.Conv2d:
        return as_convolution(name, layer)
    own = ultralytics_module("nn.modules.conv")
    if type(layer) not in (own.Conv, own.DWConv) or type(layer.conv) is not nn.Conv2d:
        raise ChangedPartError(f"{name} has a {type(layer).__qualname__} where a convolution is expected")
    if type(layer.act) not in ACTIVATIONS:
        raise ChangedPartError(f"{name} has a {type(layer.act).__qualname__} where an activation is expected")
    return as_convolution(name, layer.conv, None if _is_fused(layer) else layer.bn, ACTIVATIONS[type(layer.act)])


def _is_fused(layer: Any) -> bool:
    """Whether ultralytics has folded the normalisation into the weights, and put its shorter ``forward`` in place."""
    forward = vars(layer).get("forward")
    return getattr(forward, "__func__", None) is ultralytics_module("nn.modules.conv").Conv.forward_fuse
