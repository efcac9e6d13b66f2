"""A pass up to one layer, and the channels that are asked for in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detxai.adapters.detector import Inputs
from detxai.adapters.layers import copied, find_layer, level_names
from detxai.adapters.network import NetworkDetector


@dataclass(frozen=True, order=True)
class Channel:
    """One channel of one level of features.

    Attributes:
        level: as ``Features.levels`` names it: a layer, or ``layer:entry`` where the layer puts out a pyramid.
        number: from 0.

    >>> str(Channel("backbone:0", 17)), Channel.from_text("backbone:0:17") == Channel("backbone:0", 17)
    ('backbone:0:17', True)
    """

    level: str
    number: int

    def __str__(self) -> str:
        return f"{self.level}:{self.number}"

    @classmethod
    def from_text(cls, text: str) -> Channel:
        """``LEVEL:NUMBER``.

        Raises:
            ValueError: it is not of this form.
        """
        level, _, number = text.rpartition(":")
        if not level or not number.isascii() or not number.isdigit():
            raise ValueError(f"a channel must be LEVEL:NUMBER such as model.15:12, got {text!r}")
        return cls(level, int(number))


class _LayersDoneError(Exception):
    """Raised to end a pass when the last of the layers has run."""


def levels_of(detector: NetworkDetector, inputs: Inputs, layers: Sequence[str]) -> dict[str, Tensor]:
    """What ``layers`` put out for B images, level -> (B, C, h, w); what lies behind the last of them does not run.

    Differentiable in ``inputs`` where gradients are on.

    Raises:
        LookupError: a layer is unknown, or does not run.
        ValueError: its output is no (B, C, h, w) tensor, nor a dict or list of them.
    """
    outputs: dict[str, Any] = {}
    handles = []

    def keep(name: str, output: Any) -> None:
        outputs[name] = copied(output)
        if len(outputs) == len(layers):
            raise _LayersDoneError

    with detector.borrowed():
        try:
            for name in layers:
                layer = find_layer(detector.model, name)
                handles.append(layer.register_forward_hook(lambda module, given, output, name=name: keep(name, output)))
            detector.candidates(inputs)
        except _LayersDoneError:
            pass
        finally:
            for handle in handles:
                handle.remove()
    absent = [name for name in layers if name not in outputs]
    if absent:
        raise LookupError(f"layer {absent[0]!r} did not run, so there is nothing of it to show")
    return level_names({name: outputs[name] for name in layers})


def check_channels(channels: Sequence[Channel], levels: dict[str, Tensor]) -> None:
    """Raise ``LookupError`` where a channel is not among these levels."""
    if not channels:
        raise ValueError("channels must name at least one channel, got none")
    for channel in channels:
        if channel.level not in levels:
            raise LookupError(f"channel {channel}: the level must be one of {list(levels)}, got {channel.level!r}")
        n = levels[channel.level].shape[1]
        if not 0 <= channel.number < n:
            raise LookupError(f"channel {channel}: {channel.level} has channels 0 to {n - 1}, got {channel.number}")
