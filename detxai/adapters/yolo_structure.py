"""A YOLO head as data for the ablation engine, where it is ultralytics' own and not a user's variant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detxai.adapters.structure import Convolution, Dense
from detxai.adapters.yolo_checkpoint import ultralytics_module
from detxai.adapters.yolo_head import anchor_points
from detxai.adapters.yolo_letterbox import boxes_to_images
from detxai.geometry import Geometry

ACTIVATIONS: Mapping[type[nn.Module], Callable[[Tensor], Tensor] | None] = {
    nn.SiLU: partial(F.silu, inplace=True),
    nn.ReLU: torch.relu_,
    nn.ReLU6: partial(F.hardtanh, min_val=0.0, max_val=6.0, inplace=True),
    nn.Hardswish: partial(F.hardswish, inplace=True),
    nn.Identity: None,
}


def dense(
    head: Any, levels: Mapping[str, Tensor], *, one2one: bool, strides: Sequence[float], geometry: Geometry
) -> Dense | None:
    """The structure of a ``Detect`` head or one of its kin with upright boxes, or None where a part is not its own.

    Args:
        levels: what the head reads: level name -> (1, C, h, w), in its order.
        one2one: the candidates come from the one-to-one branch.
        strides: input pixels per cell, for each level.
        geometry: how the image lies in the model's input.
    """
    # a user's hook on a part would see, or change, what the shortcuts leave out
    if any(module._forward_hooks or module._forward_pre_hooks for module in head.modules()):
        return None
    branch = head.one2one if one2one else head.one2many
    boxes = [_branch(layers) for layers in branch["box_head"]]
    classes = [_branch(layers) for layers in branch["cls_head"]]
    reach = _longest_distance(head)
    if reach is None or any(part is None for part in (*boxes, *classes)):
        return None
    if not len(levels) == len(boxes) == len(classes):
        return None
    places = {
        name: anchor_points([level], (stride,), _at_least_single(level.dtype))
        for (name, level), stride in zip(levels.items(), strides, strict=True)
    }

    def decode(level: str, numbers: Tensor, cells: Tensor) -> Tensor:
        points, sizes = places[level]
        distances, points, sizes = _distances(head, numbers), points[:, cells], sizes[cells]
        first, second = (points - distances[:, :2]) * sizes, (points + distances[:, 2:]) * sizes
        if head.reg_max == 1:  # a distance may then be negative, and the box end before it starts
            first, second = torch.minimum(first, second), torch.maximum(first, second)
        return boxes_to_images(torch.cat([first, second], 1).transpose(1, 2), (geometry,))

    def placed(distance: float) -> dict[str, Tensor]:
        """For each cell, the box whose sides all lie this many cells from its anchor point."""
        corners = {
            name: torch.cat([points - distance, points + distance]) * sizes for name, (points, sizes) in places.items()
        }
        return {name: boxes_to_images(corner.t()[None], (geometry,))[0] for name, corner in corners.items()}

    return Dense(
        levels,
        dict(zip(levels, boxes, strict=True)),  # type: ignore[arg-type]
        dict(zip(levels, classes, strict=True)),  # type: ignore[arg-type]
        decode,
        points=placed(0.0) if reach else None,
        widest=placed(reach) if reach else None,
    )


def _longest_distance(head: Any) -> float | None:
    """The most cells a side can lie from its anchor point, never on its wrong side; 0 where it can lie anywhere.

    None where the distances are not ultralytics' own.
    """
    if head.reg_max == 1:
        return 0.0 if type(head.dfl) is nn.Identity else None
    own = ultralytics_module("nn.modules.block").DFL
    if type(head.dfl) is not own or "forward" in vars(head.dfl) or type(head.dfl.conv) is not nn.Conv2d:
        return None
    weight = head.dfl.conv.weight
    if weight.shape != (1, head.reg_max, 1, 1) or head.dfl.conv.bias is not None:
        return None
    return float(weight.max()) if float(weight.min()) >= 0 else 0.0


def _distances(head: Any, numbers: Tensor) -> Tensor:
    """(B, 4, n) cells from the anchor point to the four sides: the mean of a distribution over whole distances."""
    if head.reg_max == 1:
        return numbers.to(_at_least_single(numbers.dtype))
    shares = numbers.unflatten(1, (4, head.reg_max)).softmax(2)
    distances = head.dfl.conv.weight.detach().flatten()[:, None].to(shares.dtype)
    return (shares * distances).sum(2).to(_at_least_single(numbers.dtype))


def _branch(layers: nn.Module) -> tuple[Convolution, ...] | None:
    """The convolutions of a branch that reads one level, or None where it is anything else."""
    flat = list(_flattened(layers))
    chain = [_convolution(layer) for layer in flat]
    if len(chain) < 3 or any(part is None for part in chain):
        return None
    found: tuple[Convolution, ...] = tuple(part for part in chain if part is not None)
    mixing = found[0] if found[0].groups == 1 else found[1]
    last = found[-1]
    whole = mixing.groups == last.groups == 1 and last.weight.shape[-1] == 1 and last.activation is None
    return found if whole and last is not mixing else None


def _flattened(layers: nn.Module) -> Iterable[nn.Module]:
    if type(layers) is not nn.Sequential or "forward" in vars(layers):
        return [layers]
    return [inner for layer in layers for inner in _flattened(layer)]


def _convolution(layer: Any) -> Convolution | None:
    """One layer as a convolution with its normalisation folded in; None where it is nothing of the kind."""
    if type(layer) is nn.Conv2d:
        return _folded(layer, None, None) if "forward" not in vars(layer) else None
    own = ultralytics_module("nn.modules.conv")
    if type(layer) not in (own.Conv, own.DWConv):
        return None
    replaced = vars(layer).get("forward")
    fused = replaced is not None and getattr(replaced, "__func__", None) is own.Conv.forward_fuse
    if (replaced is not None and not fused) or type(layer.act) not in ACTIVATIONS or type(layer.conv) is not nn.Conv2d:
        return None
    if any("forward" in vars(part) for part in (layer.conv, layer.act)):
        return None
    return _folded(layer.conv, None if fused else layer.bn, ACTIVATIONS[type(layer.act)])


def _folded(
    conv: nn.Conv2d, norm: nn.Module | None, activation: Callable[[Tensor], Tensor] | None
) -> Convolution | None:
    side = conv.kernel_size[0]
    regular = (
        conv.kernel_size == (side, side)
        and side % 2 == 1
        and conv.padding == (side // 2, side // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and (conv.groups == 1 or conv.groups == conv.in_channels == conv.out_channels)
    )
    if not regular:
        return None
    weight = conv.weight.detach()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    if norm is not None:
        if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or norm.running_var is None:
            return None
        if norm.weight is None or norm.bias is None or "forward" in vars(norm):
            return None
        scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias.detach()
    return Convolution(weight, bias, conv.groups, activation)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
