"""RoIAlign as a weighted sum of table rows: the same numbers as torchvision's, at a fraction of its CPU price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class FeatureTable:
    """The levels that boxes are pooled from, as one table of places.

    Attributes:
        rows: (P, C) the features of every place of every level, level after level, row by row.
        starts: (L,) first row of each level.
        sizes: (L, 2) height and width of each level.
        scales: (L,) feature cells per input pixel.
    """

    rows: Tensor
    starts: Tensor
    sizes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, levels: Mapping[str, Tensor], scales: Mapping[str, float]) -> FeatureTable:
        """The table of the levels (1, C, h, w) named in ``scales``, in their order."""
        maps = [levels[name][0] for name in scales]
        rows = torch.cat([level.flatten(1).t() for level in maps]).contiguous()
        sizes = torch.tensor([level.shape[1:] for level in maps], device=rows.device)
        ends = sizes.prod(1).cumsum(0)
        return cls(rows, ends - sizes.prod(1), sizes, rows.new_tensor(list(scales.values())))


@dataclass(frozen=True)
class Samples:
    """Where boxes are sampled: for each bin, which rows of a table with which weights.

    Attributes:
        rows: (n * bins, S) row numbers.
        weights: (n * bins, S); they sum to 1 in a bin that lies inside the level.
        bins: bins a box.
    """

    rows: Tensor
    weights: Tensor
    bins: int

    def pool(self, table: Tensor) -> Tensor:
        """(n, bins, C): the boxes pooled from a table (P, C)."""
        pooled = F.embedding_bag(self.rows, table, per_sample_weights=self.weights.to(table.dtype), mode="sum")
        return pooled.unflatten(0, (-1, self.bins))

    def total(self) -> Tensor:
        """(n, bins): what a feature of 1 everywhere would be pooled to."""
        return self.weights.sum(1).unflatten(0, (-1, self.bins))

    def of_boxes(self, chosen: Tensor) -> Samples:
        """The samples of some boxes (k,)."""
        rows, weights = (t.unflatten(0, (-1, self.bins))[chosen].flatten(0, 1) for t in (self.rows, self.weights))
        return Samples(rows, weights, self.bins)


def sample_boxes(
    table: FeatureTable, boxes: Tensor, level: Tensor, output_size: tuple[int, int], sampling_ratio: int
) -> Samples:
    """Where RoIAlign samples each box.

    Args:
        boxes: (n, 4) xyxy, input pixels.
        level: (n,) which level of the table each box is pooled from.
        output_size: bins (height, width).
        sampling_ratio: samples a bin along each axis, at least 1.

    Source: He et al., 2017, Mask R-CNN, section 3 (RoIAlign), as in torchvision with ``aligned=False``: samples
    beyond one cell outside the level count as 0, boxes are at least one cell wide.
    """
    scaled = boxes * table.scales[level, None]
    places, shares = [], []
    for axis, n_bins in ((1, output_size[0]), (0, output_size[1])):
        start = scaled[:, axis]
        length = (scaled[:, axis + 2] - start).clamp(min=1)
        steps = (torch.arange(n_bins * sampling_ratio, device=boxes.device, dtype=boxes.dtype) + 0.5) / sampling_ratio
        at = start[:, None] + steps * (length / n_bins)[:, None]
        place, share = _corners(at, table.sizes[level, 1 - axis, None])
        places.append(place.unflatten(1, (n_bins, sampling_ratio)))
        shares.append(share.unflatten(1, (n_bins, sampling_ratio)))
    (y, x), (y_share, x_share) = places, shares
    # (n, bins down, bins across, samples down, corners down, samples across, corners across)
    width = table.sizes[level, 1].view(-1, 1, 1, 1, 1, 1, 1)
    start_row = table.starts[level].view(-1, 1, 1, 1, 1, 1, 1)
    rows = start_row + y[:, :, None, :, :, None, None] * width + x[:, None, :, None, None]
    weights = y_share[:, :, None, :, :, None, None] * x_share[:, None, :, None, None] / sampling_ratio**2
    per_bin = (sampling_ratio * 2) ** 2
    return Samples(rows.reshape(-1, per_bin), weights.reshape(-1, per_bin), output_size[0] * output_size[1])


def _corners(at: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around each coordinate (n, s), and their shares: (n, s, 2) each."""
    inside = (at >= -1) & (at <= size)
    place = torch.minimum(at.clamp(min=0), (size - 1).to(at.dtype))
    low = place.floor()
    share = place - low
    low = low.long()
    high = torch.minimum(low + 1, size - 1)
    return torch.stack([low, high], -1), torch.stack([1 - share, share], -1) * inside[..., None]
