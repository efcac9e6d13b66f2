"""Regions: an image cut into sets of pixels that are hidden or shown together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from detxai.engine.masking.soft.masks import uniforms

INNER = 6  # cells across the grown box: finer ones are more than a few hundred views can tell apart
LARGE = 2.0  # times the usual area, from which a region may be cut
OUTER = 3  # cells across the image, beyond the grown box
MARGIN = 0.25  # of the box's sides, added on each of them: what decides a box often lies just outside it


@dataclass(frozen=True, eq=False)
class Partitions:
    """S ways to cut one image into regions.

    Attributes:
        labels: (S, h, w) int64, the region of each pixel; a partition's regions are numbered from 0 and none is empty.
        counts: (S,) int64, how many regions each partition has.
    """

    labels: Tensor
    counts: Tensor

    @classmethod
    def from_labels(cls, labels: Tensor, n_labels: int | None = None) -> Partitions:
        """Partitions from any labels (S, h, w) int64 of at least 0, such as superpixels; gaps are closed.

        ``n_labels`` is more than any of them; where it is None they are searched, and the device is waited for.

        >>> Partitions.from_labels(torch.tensor([[[7, 7, 2]]])).labels
        tensor([[[1, 1, 0]]])
        """
        flat = labels.flatten(1)
        used = torch.zeros(len(flat), n_labels or int(flat.max()) + 1, dtype=torch.bool, device=flat.device)
        used.scatter_(1, flat, torch.ones_like(flat, dtype=torch.bool))
        number = used.cumsum(1) - 1
        return cls(number.gather(1, flat).view_as(labels), used.sum(1))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def most_regions(self) -> int:
        """The largest of the counts. To read it the device is waited for, once."""
        return int(self.counts.max())

    @cached_property
    def areas(self) -> Tensor:
        """(S, N) float32, how many pixels each region has; 0 beyond a partition's own regions."""
        flat = self.labels.flatten(1)
        areas = torch.zeros(len(flat), self.most_regions, dtype=torch.float32, device=flat.device)
        return areas.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))

    def sums(self, maps: Tensor) -> Tensor:
        """(S, N) what each region holds of its map: ``maps`` is (S, h, w)."""
        flat = self.labels.flatten(1)
        sums = maps.new_zeros(len(flat), self.most_regions)
        return sums.scatter_add_(1, flat, maps.flatten(1))


def random_partitions(
    size: tuple[int, int],
    boxes: Tensor,
    numbers: Tensor,
    seed: int = 0,
    *,
    inner: int = INNER,
    outer: int = OUTER,
    margin: float = MARGIN,
) -> Partitions:
    """A grid over the grown box, and a coarse one over the rest of the image, both at random offsets.

    Partition number i is a function of (seed, i) and its box alone, on any device.

    Args:
        size: (height, width) in pixels.
        boxes: (S, 4) xyxy in those pixels, the box that each partition is fitted to.
        numbers: (S,) int64, which partitions.
        seed: of all partitions.
        inner: cells across the grown box, in each direction; the offset adds one that is cut.
        outer: cells across the image beyond it.
        margin: of the box's sides, by which it is grown on each of them.
    """
    offsets = uniforms(seed, numbers, torch.arange(4, device=numbers.device)).float()
    grown = grown_boxes(boxes.float(), size, margin)
    rows, columns = (torch.arange(n, device=boxes.device, dtype=grown.dtype) + 0.5 for n in size)
    inside = _cells(columns, grown[:, 0], grown[:, 2], inner, offsets[:, 0])[:, None]
    inside = inside + (inner + 1) * _cells(rows, grown[:, 1], grown[:, 3], inner, offsets[:, 1])[:, :, None]
    whole = torch.zeros_like(grown[:, 0])
    beyond = _cells(columns, whole, whole + size[1], outer, offsets[:, 2])[:, None]
    beyond = beyond + (outer + 1) * _cells(rows, whole, whole + size[0], outer, offsets[:, 3])[:, :, None]
    labels = torch.where(_within(grown, rows, columns), inside, beyond + (inner + 1) ** 2).long()
    return Partitions.from_labels(labels, (inner + 1) ** 2 + (outer + 1) ** 2)


def split_regions(partitions: Partitions, maps: Tensor, n_splits: int, rounds: int = 2) -> Partitions:
    """The regions in which most of a map may lie far from where it is drawn, each cut in four.

    What a region holds may lie anywhere in it, so cutting it matters as ``|sum of the map| * sqrt(area)``. Regions of
    about the usual size (the median) or below are left whole: a few hundred views cannot tell their parts apart. A part
    may be cut again in the next round.

    Args:
        partitions: S of them.
        maps: (S, h, w) the density so far.
        n_splits: how many regions of each partition to cut, shared out over the rounds.
        rounds: at most; fewer where there are fewer splits.
    """
    areas = partitions.areas
    usual = areas.masked_fill(areas == 0, torch.nan).nanmedian(1).values
    for i in range(min(rounds, n_splits)):
        partitions = _cut_in_four(partitions, maps, n_splits // rounds + (i < n_splits % rounds), LARGE * usual)
    return partitions


def _cut_in_four(partitions: Partitions, maps: Tensor, n_splits: int, larger_than: Tensor) -> Partitions:
    labels, areas, n = partitions.labels, partitions.areas, partitions.most_regions
    large = areas > larger_than[:, None]
    misplaced = partitions.sums(maps).abs() * areas.sqrt() * large
    chosen = torch.zeros_like(large)
    chosen.scatter_(1, misplaced.topk(min(n_splits, n)).indices, torch.ones_like(large))
    chosen = chosen & large
    flat = labels.flatten(1)
    height, width = labels.shape[1:]
    quarter = torch.zeros_like(flat)
    for axis, length in enumerate((height, width)):
        shape = (-1, 1) if axis == 0 else (1, -1)
        place = torch.arange(length, device=labels.device).view(shape).expand(height, width).reshape(1, -1)
        place = place.expand_as(flat)
        first = torch.full_like(chosen, length, dtype=torch.long).scatter_reduce_(1, flat, place, "amin")
        last = torch.zeros_like(chosen, dtype=torch.long).scatter_reduce_(1, flat, place, "amax")
        quarter = 2 * quarter + (2 * place > (first + last).gather(1, flat)).long()
    quarter = quarter * chosen.gather(1, flat)
    return Partitions.from_labels((4 * flat + quarter).view_as(labels), 4 * n)


def superpixels(image: Tensor, n_regions: int = 100) -> Partitions:
    """One partition that follows the image's own edges.

    Args:
        image: (3, h, w) in [0, 1].
        n_regions: about how many regions.

    Raises:
        ImportError: scikit-image is not installed.

    Source: Achanta et al., 2012, SLIC superpixels (IEEE TPAMI 34).
    """
    slic = import_slic()
    found = slic(image.permute(1, 2, 0).cpu().numpy(), n_segments=n_regions, compactness=20, start_label=0)
    return Partitions.from_labels(torch.from_numpy(found)[None].long().to(image.device))


def import_slic() -> Any:
    """scikit-image's function ``slic``.

    Raises:
        ImportError: with the pip line.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError('superpixels need scikit-image: pip install "detxai[superpixels]"') from error
    return slic


def grown_boxes(boxes: Tensor, size: tuple[int, int], margin: float) -> Tensor:
    """(S, 4) the boxes with a margin, within the image and at least a pixel wide and high."""
    sides = boxes[:, 2:] - boxes[:, :2]
    limit = boxes.new_tensor([size[1], size[0]])
    low = torch.minimum((boxes[:, :2] - margin * sides).clamp(min=0), limit - 1)
    high = torch.maximum(torch.minimum(boxes[:, 2:] + margin * sides, limit), low + 1)
    return torch.cat([low, high], 1)


def _within(boxes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(S, h, w) bool: which pixels, by their centres (h,) and (w,), lie in each box."""
    across = (columns >= boxes[:, :1]) & (columns < boxes[:, 2:3])
    down = (rows >= boxes[:, 1:2]) & (rows < boxes[:, 3:4])
    return down[:, :, None] & across[:, None]


def _cells(pixels: Tensor, low: Tensor, high: Tensor, n: int, offset: Tensor) -> Tensor:
    """(S, length) the cell 0 to n of each pixel centre in a grid of n cells from ``low`` to ``high``, shifted."""
    cells = (pixels - low[:, None]) / (high - low)[:, None] * n + offset[:, None]
    return cells.floor().clamp(0, n)
