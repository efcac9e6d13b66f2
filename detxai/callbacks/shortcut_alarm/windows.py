"""What hiding one place of an image takes from the score of a box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.images import Image
from detxai.targets import ClassScoreTarget, score_targets


@dataclass(frozen=True)
class Windows:
    """Square places on an image: every window of ``span`` x ``span`` cells of a grid, also those half over the edge.

    A window at each corner and edge matters: that is where watermarks, stamps and time codes stand.

    Args:
        cells: of the grid, along each side.
        span: cells along each side of a window.

    >>> Windows(cells=2, span=1).shares
    tensor([[0.0000, 0.0000, 0.5000, 0.5000],
            [0.5000, 0.0000, 1.0000, 0.5000],
            [0.0000, 0.5000, 0.5000, 1.0000],
            [0.5000, 0.5000, 1.0000, 1.0000]])
    """

    cells: int = 6
    span: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.span <= self.cells:
            raise ValueError(f"span must lie in [1, cells], got {self.span} of {self.cells}")

    def __len__(self) -> int:
        return self.n_rows**2

    @property
    def n_rows(self) -> int:
        """So many rows of windows, and so many windows in a row."""
        return self.cells + self.span - 1

    def row(self, number: int) -> slice:
        """The windows of one row, from the top.

        >>> Windows(cells=2, span=1).row(1)
        slice(2, 4, None)
        """
        return slice(number * self.n_rows, (number + 1) * self.n_rows)

    @property
    def shares(self) -> Tensor:
        """(W, 4) xyxy, as shares of the image's width and height."""
        starts = range(1 - self.span, self.cells)
        corners = [(max(x, 0), max(y, 0), x + self.span, y + self.span) for y in starts for x in starts]
        return torch.tensor(corners, dtype=torch.float32).clamp(max=self.cells) / self.cells

    def masks(self, size: tuple[int, int]) -> Tensor:
        """(W, height, width), 0 in each window and 1 elsewhere."""
        height, width = size
        keep = torch.ones(len(self), height, width)
        for mask, (x1, y1, x2, y2) in zip(keep, self.shares.tolist()):
            mask[round(y1 * height) : round(y2 * height), round(x1 * width) : round(x2 * width)] = 0
        return keep


def score_drops(
    detector: Detector,
    image: Image,
    detections: Detections,
    windows: Windows,
    *,
    fill: Filling = "blur",
    row: int | None = None,
    batch_size: int = 16,
) -> Tensor:
    """The share of each box's score that goes away with each window: (T, W), 1 all of it, below 0 it helps.

    NaN where the window touches the box: what is asked is what lies *elsewhere* does to it. The score is
    ``ClassScoreTarget``; a box without any score has NaN everywhere. With a ``row``, only its windows are hidden, and
    all others have NaN.

    Source: Zeiler & Fergus, 2014, occlusion (ECCV), with a box's score and windows off the box.
    """
    effects = torch.full((len(detections), len(windows)), torch.nan)
    if not len(detections):
        return effects
    asked = slice(None) if row is None else windows.row(row)
    canvas = Canvas.with_fill(detector, image, fill)
    targets = ClassScoreTarget.of(detections)
    with torch.no_grad(), detector.borrowed():
        clean = score_targets(targets, detector.candidates(canvas.clean))
        hidden = [
            score_targets(targets, detector.candidates(canvas.inputs(keep.to(clean.device))))
            for keep in windows.masks(canvas.size)[asked].split(batch_size)
        ]
    effects[:, asked] = ((clean - torch.cat(hidden, 1)) / torch.where(clean > 0, clean, torch.nan)).float().cpu()
    effects[_touching(detections.boxes.cpu(), windows, canvas.geometry.image_size)] = torch.nan
    return effects


def _touching(boxes: Tensor, windows: Windows, size: tuple[int, int]) -> Tensor:
    """(T, W) bool: whether a window and a box share any pixel."""
    height, width = size
    places = windows.shares * torch.tensor([width, height, width, height])
    apart = (boxes[:, None, :2] >= places[None, :, 2:]) | (places[None, :, :2] >= boxes[:, None, 2:])
    return ~apart.any(-1)
