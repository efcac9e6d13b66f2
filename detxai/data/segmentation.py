"""The segmentations of COCO annotations: polygons and run lengths, checked and drawn.

pycocotools draws what memory happens to hold where run lengths end too soon, and never ends over a corner a billion
pixels away: what it gets is checked here first, and run lengths it does not get at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.messages import short_repr

FARTHEST = 100_000  # pixels from the image's corner to that of a polygon: the drawing walks along its edges


def check_segmentation(outline: Any, name: str) -> None:
    """Raise where ``outline`` is no segmentation; run lengths written as text are only read when they are drawn.

    Args:
        outline: a list of polygons ``[x, y, x, y, ...]``, or ``{"counts", "size"}``.
        name: how messages begin.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(outline, list):
        if not outline or not all(_is_polygon(polygon) for polygon in outline):
            raise ValueError(
                f"{name}: 'segmentation' must be polygons [x, y, x, y, ...] of three corners or more, within "
                f"{FARTHEST} pixels of the image, or run lengths; got {short_repr(outline)}"
            )
    elif not isinstance(outline, dict) or not _is_size(outline.get("size")) or not _are_counts(outline.get("counts")):
        raise ValueError(
            f"{name}: 'segmentation' must be polygons, or run lengths {{'counts': ..., 'size': [height, width]}}; "
            f"got {short_repr(outline)}"
        )


def draw_segmentation(outline: Any, size: tuple[int, int], name: str) -> npt.NDArray[np.bool_]:
    """The pixels of a checked segmentation, (height, width) bool.

    Args:
        outline: what ``check_segmentation`` let pass.
        size: (height, width) of the image.
        name: how messages begin.

    Raises:
        ValueError: run lengths are of another size, or do not add up to it.
    """
    if isinstance(outline, list):
        from pycocotools import mask as rle

        drawn = rle.decode(rle.merge(rle.frPyObjects([[float(side) for side in one] for one in outline], *size)))
        return drawn.astype(bool)
    height, width = outline["size"]
    if (height, width) != size:
        raise ValueError(
            f"{name}: segmentation must be of the image's {size[0]} x {size[1]} pixels, got {height} x {width}"
        )
    counts = outline["counts"]
    lengths = run_lengths(counts, name) if isinstance(counts, str) else counts
    if sum(lengths) != height * width:
        raise ValueError(
            f"{name}: the run lengths of 'segmentation' must add up to {height} x {width} pixels, got {sum(lengths)}"
        )
    shown = np.arange(len(lengths)) % 2 == 1  # they begin with what is not shown
    return np.repeat(shown, lengths).reshape(width, height).T  # column by column


def run_lengths(text: str, name: str) -> list[int]:
    """Run lengths from COCO's text: five bits a sign, the fourth length and later ones less the length before last.

    Source: cocoapi, common/maskApi.c, rleFrString.

    Raises:
        ValueError: it ends within a number, has other signs, or a length is negative.

    >>> run_lengths("52203", "it"), run_lengths("P1", "it")
    ([5, 2, 2, 2, 5], [32])
    """
    lengths: list[int] = []
    number = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{name}: the run lengths of 'segmentation' cannot hold {sign!r}")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        lengths.append(number + lengths[-2] if len(lengths) > 2 else number)
        number = shift = 0
    if shift or any(length < 0 for length in lengths):
        raise ValueError(f"{name}: the run lengths of 'segmentation' are damaged or cut off")
    return lengths


def _is_polygon(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    return all(
        isinstance(side, (int, float)) and not isinstance(side, bool) and abs(side) <= FARTHEST  # no NaN
        for side in polygon
    )


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(_is_whole(side) and side > 0 for side in size)


def _are_counts(counts: Any) -> bool:
    if isinstance(counts, list):
        return bool(counts) and all(_is_whole(count) and count >= 0 for count in counts)
    return isinstance(counts, str) and bool(counts)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
