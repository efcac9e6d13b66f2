"""Layers of a head as ``detxai.adapters.structure`` describes them: convolutions, normalisation folded in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d

from detxai.adapters.changes.unchanged import ChangedPartError
from detxai.adapters.structure import Convolution

ACTIVATIONS: Mapping[type[nn.Module], Callable[[Tensor], Tensor] | None] = {
    nn.SiLU: partial(F.silu, inplace=True),
    nn.ReLU: torch.relu_,
    nn.ReLU6: partial(F.hardtanh, min_val=0.0, max_val=6.0, inplace=True),
    nn.Hardswish: partial(F.hardswish, inplace=True),
    nn.Identity: None,
}


def flattened(part: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, and of sequences inside it, in order."""
    return [inner for layer in part for inner in flattened(layer)] if isinstance(part, nn.Sequential) else [part]


def as_convolution(
    name: str, conv: nn.Conv2d, norm: nn.Module | None = None, activation: Callable[[Tensor], Tensor] | None = None
) -> Convolution:
    """A convolution with the normalisation and activation behind it.

    Args:
        name: of the part in the model.
        norm: batch normalisation, with its running statistics, is folded into the weights; group normalisation stands
            before the activation.

    Raises:
        ChangedPartError: ``conv`` is no plain convolution of stride 1, or ``norm`` another normalisation.
    """
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
        raise ChangedPartError(f"{name} has {conv}, which is no plain convolution of stride 1")
    weight = conv.weight.detach()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    if type(norm) is nn.GroupNorm:
        return Convolution(weight, bias, conv.groups, _normalised(norm, activation), place_by_place=False)
    if norm is not None:
        weight, bias = _folded(name, weight, bias, norm)
    return Convolution(weight, bias, conv.groups, activation)


def _normalised(norm: nn.Module, activation: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    def normalised(maps: Tensor) -> Tensor:
        maps = norm(maps)
        return maps if activation is None else activation(maps)

    return normalised


def _folded(name: str, weight: Tensor, bias: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    if type(norm) not in (nn.BatchNorm2d, FrozenBatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise ChangedPartError(f"{name} has {norm}, which is no batch normalisation with running statistics")
    weight, bias = fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), bias.detach()
