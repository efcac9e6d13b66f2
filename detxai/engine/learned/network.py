"""The network of a learned explainer: from what a box's two windows show to amounts of evidence in their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from detxai.engine.learned.windows import GRID, N_WINDOWS

PIXELS_A_CELL = 4  # along each side: how finely the image itself is read
N_POSITIONS = 4  # channels of ``Windows.positions``
FLOOR = 1e-6  # of the hill far from the box, so that its logarithm is finite
SPREAD = 2.0 / GRID**2  # amounts in a cell for an output of 1: a fiftieth or so of the score in a few cells


@dataclass(frozen=True, eq=False)
class ExplainerInputs:
    """What the network reads of T boxes.

    Attributes:
        pixels: (T, 2, 3, p, p) both windows of the image, p = ``GRID * PIXELS_A_CELL``, as the detector reads them.
        features: (T, 2, C, GRID, GRID) the detector's features there, all levels; C may be 0.
        positions: (T, 2, 4, GRID, GRID) of ``Windows.positions``.
        prior: (T, 2, GRID, GRID) of ``Windows.prior``.
        shares: (T, 2, GRID, GRID) in [0, 1]: how much of each cell counts: its coverage where all is shown.
        labels: (T,) int64.
    """

    pixels: Tensor
    features: Tensor
    positions: Tensor
    prior: Tensor
    shares: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def cat(cls, parts: Sequence[ExplainerInputs]) -> ExplainerInputs:
        """The boxes of several images together."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class ExplainerNetwork(nn.Module):
    """Amounts of evidence in the cells of both windows of a box, in one pass.

    Three scales of convolutions (cells, pairs and quadruples of cells), the same weights for both windows. What both
    windows hold on average and the box's label scale and shift the channels of each, so that what lies far away and
    what class is asked about can change what counts near by. The last layer starts at zero: an untrained network says
    the hill over the box.

    Args:
        n_features: C, channels of the detector's features; 0 where it is a black box.
        n_labels: labels lie in [0, n_labels).
        width: channels at the finest scale.

    Attributes:
        mean, scale: (C,) what ``standardise`` found; 0 and 1 before.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int, n_labels: int, width: int = 32) -> None:
        super().__init__()
        self.n_features, self.n_labels, self.width = n_features, n_labels, width
        wide = 2 * width
        self.pixels = nn.Sequential(_layer(3, width // 2, 2), _layer(width // 2, width, 2))
        self.features = nn.Conv2d(n_features, width, 1) if n_features else None
        self.label = nn.Embedding(n_labels, wide)
        self.fine = _layer((2 if n_features else 1) * width + N_POSITIONS, width)
        self.middle = _layer(width, wide)
        self.coarse = nn.Sequential(_layer(wide, wide), _layer(wide, wide))
        self.context = nn.Sequential(nn.Linear((N_WINDOWS + 1) * wide, wide), nn.GELU(), nn.Linear(wide, 2 * wide))
        self.middle_up = _layer(2 * wide, width)
        self.fine_up = _layer(2 * width, width)
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.amounts = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.amounts.weight)
        nn.init.zeros_(self.amounts.bias)  # type: ignore[arg-type]

    def standardise(self, features: Tensor) -> None:
        """From now on read features with the mean and the spread of each channel taken out, as they are in these.

        Args:
            features: (T, 2, C, GRID, GRID) of some boxes.
        """
        channels = features.movedim(2, 0).flatten(1)
        self.mean.copy_(channels.mean(1))
        self.scale.copy_(1 / channels.std(1).clamp(min=1e-6))

    def forward(self, inputs: ExplainerInputs) -> Tensor:
        """(T, 2, GRID, GRID) signed, as shares of the box's score: what each cell of the windows adds to it."""
        return inputs.prior + SPREAD * self.outputs(inputs)

    def chances(self, inputs: ExplainerInputs) -> Tensor:
        """(T, 2, GRID, GRID): the chance that one draw takes what lies in a cell; all that counts sums to 1."""
        log_chances = self.log_chances(inputs)
        return log_chances.exp()

    def log_chances(self, inputs: ExplainerInputs) -> Tensor:
        """(T, 2, GRID, GRID) the logarithm of ``chances``: the hill over the box times ``exp(outputs)``."""
        tiny = torch.finfo(inputs.prior.dtype).tiny
        raw = (inputs.prior + FLOOR).log() + self.outputs(inputs)
        counted = raw + inputs.shares.clamp(min=tiny).log()
        return raw - counted.flatten(1).logsumexp(1)[:, None, None, None]

    def outputs(self, inputs: ExplainerInputs) -> Tensor:
        """(T, 2, GRID, GRID) of the last layer; zeros before any training."""
        seen = [self.pixels(inputs.pixels.flatten(0, 1)), inputs.positions.flatten(0, 1)]
        if self.features is not None:
            standard = (inputs.features.flatten(0, 1) - self.mean[:, None, None]) * self.scale[:, None, None]
            seen.append(self.features(standard))
        fine = self.fine(torch.cat(seen, 1))
        middle = self.middle(nn.functional.avg_pool2d(fine, 2))
        coarse = self.coarse(nn.functional.avg_pool2d(middle, 2))
        scale, shift = self._context(coarse, inputs.labels).repeat_interleave(N_WINDOWS, 0).chunk(2, 1)
        coarse = coarse * (1 + scale[..., None, None]) + shift[..., None, None]
        middle = middle * (1 + scale[..., None, None]) + shift[..., None, None]
        joined = self.middle_up(torch.cat([_twice(coarse), middle], 1))
        joined = self.fine_up(torch.cat([_twice(joined), fine], 1))
        return self.amounts(joined).view(len(inputs), N_WINDOWS, GRID, GRID)

    def _context(self, coarse: Tensor, labels: Tensor) -> Tensor:
        """(T, 2 * channels) of what both windows hold on average and of the label."""
        means = coarse.mean((2, 3)).view(len(labels), -1)
        found: Tensor = self.context(torch.cat([means, self.label(labels)], 1))
        return found


def _layer(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, padding=1), nn.GroupNorm(n_out // 8, n_out), nn.GELU())


def _twice(maps: Tensor) -> Tensor:
    return nn.functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
