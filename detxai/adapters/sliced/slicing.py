"""How an image is cut into slices, and how detections in them are merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

Merge = Literal["greedy_nmm", "nms"]
MatchMetric = Literal["ios", "iou"]
Slices: TypeAlias = "Slicing | tuple[int, int, float]"

EXPECTED = "(rows, columns, overlap): two whole numbers from 1 and a number in [0, 1), or a detxai.Slicing"


@dataclass(frozen=True)
class Slicing:
    """Rows and columns of overlapping slices of one size; every default but the counts is SAHI's.

    All slices of an image have the same size: the smallest at which this many slices cover the image. They start at
    the upper left; the last of a row or column is moved back to end where the image does, and overlaps its neighbour
    by more. These are the slices of ``sahi.slicing.slice_image`` for that size and overlap.

    Args:
        rows: number of slices from top to bottom.
        columns: number of slices from left to right.
        overlap: in [0, 1), the fraction of its side that a slice shares with the next one; rounded down to pixels.
        whole_image: whether the detector also runs on the whole image, for objects larger than a slice (SAHI's
            ``perform_standard_pred``); with a single slice it does anyway.
        merge: how matching boxes are merged: ``"greedy_nmm"`` joins them to the one box around them all, with the
            highest score; ``"nms"`` keeps the best. Below a score threshold of 0.1 joined boxes would grow too large,
            so ``detect`` then uses ``"nms"`` by ``"iou"`` whatever is set here, as SAHI does. Rotated boxes are merged
            as the upright ones around them, where SAHI always uses ``"nms"``; masks are not merged.
        match_metric: ``"ios"``, the intersection over the smaller box, which also joins an object to the part of it
            that a slice showed; or ``"iou"``.
        match_threshold: in (0, 1], the overlap from which boxes match.
        class_agnostic: whether boxes of different classes match too.
        size: see ``of_size``; rows and columns are then None.

    Raises:
        TypeError, ValueError: a setting is not of this kind.

    Source: Akyon et al., 2022, Slicing Aided Hyper Inference (ICIP; arXiv 2202.06934), and its package sahi.

    >>> Slicing(1, 2, overlap=0.2).windows((100, 180)).tolist()
    [[0, 0, 100, 100], [80, 0, 180, 100]]
    """

    rows: int | None
    columns: int | None
    overlap: float = 0.2
    whole_image: bool = True
    merge: Merge = "greedy_nmm"
    match_metric: MatchMetric = "ios"
    match_threshold: float = 0.5
    class_agnostic: bool = False
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.size is None:
            _check_count("rows", self.rows)
            _check_count("columns", self.columns)
        elif self.rows is not None or self.columns is not None:
            raise ValueError(f"slices: give rows and columns, or a size, got {self.rows}, {self.columns}, {self.size}")
        elif not isinstance(self.size, tuple) or len(self.size) != 2:
            raise ValueError(f"slices: size must be (height, width) in pixels, got {self.size!r}")
        else:
            _check_count("height", self.size[0])
            _check_count("width", self.size[1])
        if not _is_number(self.overlap) or not 0 <= self.overlap < 1:
            raise ValueError(f"slices: overlap must be a number in [0, 1), got {self.overlap!r}")
        for name in ("whole_image", "class_agnostic"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"slices: {name} must be True or False, got {getattr(self, name)!r}")
        for name, words in (("merge", get_args(Merge)), ("match_metric", get_args(MatchMetric))):
            if getattr(self, name) not in words:
                raise ValueError(f"slices: {name} must be one of {words}, got {getattr(self, name)!r}")
        if not _is_number(self.match_threshold) or not 0 < self.match_threshold <= 1:
            raise ValueError(f"slices: match_threshold must be a number in (0, 1], got {self.match_threshold!r}")

    @classmethod
    def of_size(cls, height: int, width: int, overlap: float = 0.2, **settings: Any) -> Slicing:
        """As many slices of this size, in pixels, as cover an image; an image smaller than that is one slice.

        Args:
            height, width: SAHI's ``slice_height`` and ``slice_width``.
            overlap: as above.
            settings: any of the others above.

        >>> Slicing.of_size(100, 100).windows((90, 180)).tolist()
        [[0, 0, 100, 90], [80, 0, 180, 90]]
        """
        return cls(None, None, overlap, size=(height, width), **settings)

    @classmethod
    def from_setting(cls, slices: Any) -> Slicing:
        """What ``detxai.wrap`` takes as ``slices``: ``(rows, columns, overlap)``, or a ``Slicing``.

        Raises:
            TypeError, ValueError: it is neither.
        """
        if isinstance(slices, Slicing):
            return slices
        if not isinstance(slices, (tuple, list)):
            raise TypeError(f"slices must be {EXPECTED}, got {slices!r}")
        if len(slices) != 3:
            raise ValueError(f"slices must be {EXPECTED}, got {slices!r}")
        return cls(*slices)

    def windows(self, image_size: tuple[int, int]) -> Tensor:
        """The corners of each slice, (S, 4) int64 xyxy in pixels, row by row, for an image of (height, width).

        Raises:
            ValueError: the image is too small for this many slices.
        """
        tops, height = self._starts("rows", image_size[0])
        lefts, width = self._starts("columns", image_size[1])
        corners = [[left, top, left + width, top + height] for top in tops for left in lefts]
        return torch.tensor(corners, device="cpu")

    def _starts(self, name: Literal["rows", "columns"], length: int) -> tuple[Sequence[int], int]:
        """Where the slices along one side start, and how long they are."""
        if self.size is not None:
            side = min(self.size[name == "columns"], length)
            return self._evenly(self._covering(side, length), side, length), side
        count: int = getattr(self, name)
        side = next((side for side in _sides(length, count) if self._covering(side, length) <= count), length)
        if count > length or self._covering(side, length) != count:
            what = "high" if name == "rows" else "wide"
            raise ValueError(
                f"slices: an image {length} pixels {what} cannot be cut into {count} {name} of slices of one size that "
                f"overlap by {self.overlap:g}; take fewer {name}"
            )
        return self._evenly(count, side, length), side

    def _evenly(self, count: int, side: int, length: int) -> list[int]:
        return [min(place * self._step(side), length - side) for place in range(count)]

    def _covering(self, side: int, length: int) -> int:
        """The number of slices of this side that cover a length."""
        return 1 + max(0, math.ceil((length - side) / self._step(side)))

    def _step(self, side: int) -> int:
        return max(1, side - int(self.overlap * side))


def _sides(length: int, count: int) -> range:
    """The sides that a slice may have: at least a ``count``-th of the length, which is the side without overlap."""
    return range(max(1, length // count), length + 1)


def _check_count(name: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"slices: {name} must be a whole number from 1, got {count!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
