"""The receptive field of one value of a channel, measured by its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.detector import Inputs
from detxai.adapters.network import NetworkDetector
from detxai.concepts.channels.layer_pass import Channel, levels_of

HELD = 0.95  # of the squared gradient along each axis: the rest are faint tails as wide as the network allows


@dataclass(frozen=True)
class ReceptiveField:
    """Which pixels one value reads, in this very image.

    Attributes:
        box: xyxy, pixels of the original image: holds 95 per cent of the squared gradient along each axis.
        extent: the same of all pixels whose gradient is not zero: the theoretical receptive field, where no ReLU or
            maximum stands in the way.
    """

    box: tuple[float, float, float, float]
    extent: tuple[float, float, float, float]


def receptive_field(
    detector: NetworkDetector, inputs: Inputs, layers: Sequence[str], channel: Channel, cell: tuple[int, int]
) -> ReceptiveField | None:
    """The receptive field of ``channel`` at ``cell`` (row, column) of one prepared image.

    By gradient and not by theory: theory needs the structure of the network and gives the largest field there can be,
    which in a deep network is most of the image, while a value reads mostly from the middle of it (Luo et al., 2016,
    Understanding the effective receptive field, NeurIPS).

    Returns:
        None where the value does not depend on the image: behind a ReLU that is closed.
    """
    with detector.borrowed(), torch.enable_grad():
        shown = inputs.with_tensor(inputs.tensor.detach().clone().requires_grad_())
        value = levels_of(detector, shown, layers)[channel.level][0, channel.number, cell[0], cell[1]]
        (gradient,) = torch.autograd.grad(value, shown.tensor)
    geometry = inputs.geometries[0]
    energy = gradient[0].double().cpu().square().sum(0)
    on_image = geometry.amounts_to_image(energy)
    if not bool(on_image.sum() > 0):
        return None
    sides = [_span(on_image.sum(axis)) for axis in (0, 1)]  # across, then down
    held, whole = zip(*sides)
    return ReceptiveField(
        (held[0][0], held[1][0], held[0][1], held[1][1]), (whole[0][0], whole[1][0], whole[0][1], whole[1][1])
    )


def _span(amounts: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Along one axis: the pixels that hold ``HELD`` of all amounts (n,), as much left out on either side; and those
    of all that are not zero."""
    shares = amounts.cumsum(0) / amounts.sum()
    start = int((shares <= (1 - HELD) / 2).sum())
    end = int((shares < (1 + HELD) / 2).sum()) + 1
    places = amounts.nonzero().flatten()
    return (float(start), float(min(end, len(amounts)))), (float(places[0]), float(places[-1]) + 1)
