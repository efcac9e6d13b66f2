"""Greedy search over patches, as VX-CODE's with one patch at a time: best next to show, or best next to hide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Filling
from detxai.evaluate.peers.box_scores import BoxScores, check_peer, explain_each
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_count
from detxai.targets import ClassScoreTarget, Target

SIDES = ((0.01, 24), (0.2, 16), (1.0, 8))  # share of the image that a box covers, at most -> patches along a side
WINDOW = 1 / 7  # of the image's sides, beyond the box, in which patches are searched
WINDOWED = 0.2  # larger boxes have every patch searched


@dataclass(frozen=True)
class GreedyInsertion:
    """Patches appear on an empty image, each time that which raises the score most.

    The image is cut into square patches, 24, 16 or 8 along a side for a box that covers up to 1 %, 20 % or more of it.
    Up to 20 %, only patches whose centre lies within a seventh of the image's sides of the box are searched. At every
    step each patch that is left is tried, and the one of the highest score joins those shown. Its value is
    1 - the score before it: what came while little was seen is worth much. That is n (n + 1) / 2 passes for n patches.

    Args:
        max_passes: where they run out, the patches that are left come in the order of their last scores, with values
            that fall evenly to 0.
        fill: what stands where a patch is hidden.
        seed: of a fill of noise; nothing else is random.
        target: from a detection's box and label to the target that is scored.
        batch_size: views at once; None: what fits the device.

    Source: VX-CODE (CVPR 2026), its insertion mode with r = 1, from its definition. Differs in the score, max IoU times
    the class's score instead of IoU times the cosine of class vectors with the background; in "the image's side", here
    the square root of its area; in patches beyond the window, which get 0; and in ``max_passes``.
    """

    name: ClassVar[str] = "greedy_insertion"
    asks_about_boxes: ClassVar[bool] = True
    inserts: ClassVar[bool] = True

    max_passes: int = 2000
    fill: Filling | Sequence[float] = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    precision: ClassVar[str] = "full"

    def __post_init__(self) -> None:
        check_count("max_passes", self.max_passes, 2)
        check_peer(self)

    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        return explain_each(self, detector, image, detections, self._map)

    def _map(self, scores: BoxScores) -> Tensor:
        labels, searched = patches(scores.canvas.size, scores.box)
        n = int(labels.max()) + 1
        values = torch.zeros(n, dtype=torch.float64)
        for patch, value in self._found(scores, labels, searched, n):
            values[patch] = value
        return values.to(labels.device)[labels]

    def _found(self, scores: BoxScores, labels: Tensor, searched: Tensor, n: int) -> list[tuple[int, float]]:
        """Patches and their values, in the order in which they come."""
        state = torch.full((n,), not self.inserts)  # which patches are shown
        left, before = searched.cpu(), float(scores.with_regions(state[None], labels))
        last, found = torch.zeros(len(left)).double(), []
        while len(left) and scores.n_passes + len(left) <= self.max_passes:
            tried = state.repeat(len(left), 1)
            tried[torch.arange(len(left)), left] = self.inserts
            last = scores.with_regions(tried, labels)
            best = int(last.argmax() if self.inserts else last.argmin())
            found.append((int(left[best]), 1 - before if self.inserts else before))
            state[left[best]], before = self.inserts, float(last[best])
            rest = torch.arange(len(left)) != best
            left, last = left[rest], last[rest]
        floor = min((value for _, value in found), default=1.0)
        order = last.argsort(descending=self.inserts, stable=True).tolist()
        return found + [(int(left[i]), floor * (1 - (k + 1) / (len(order) + 1))) for k, i in enumerate(order)]


@dataclass(frozen=True)
class GreedyDeletion(GreedyInsertion):
    """Patches vanish from the whole image, each time that which lowers the score most.

    As ``GreedyInsertion``, the other way round: a patch's value is the score before it went.

    Source: VX-CODE (CVPR 2026), its deletion mode (its default) with r = 1; differs as ``GreedyInsertion`` does.
    """

    name: ClassVar[str] = "greedy_deletion"
    inserts: ClassVar[bool] = False


def patches(size: tuple[int, int], box: Tensor) -> tuple[Tensor, Tensor]:
    """The patch of each pixel (h, w) int64, numbered row by row, and which of them are searched (n,) int64.

    Args:
        size: (height, width) in pixels.
        box: (4,) xyxy in those pixels.

    >>> patches((4, 4), torch.tensor([0.0, 0.0, 4.0, 4.0]))[0].tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    """
    height, width = size
    share = float((box[2:] - box[:2]).clamp(min=0).prod()) / (height * width)
    along = next((n for most, n in SIDES if share <= most), SIDES[-1][1])
    side = max(1, round(math.sqrt(height * width) / along))
    rows, columns = (torch.arange(n, device=box.device) // side for n in size)
    labels = rows[:, None] * (int(columns[-1]) + 1) + columns[None]
    n_down, n_across = int(rows[-1]) + 1, int(columns[-1]) + 1
    down, across = ((torch.arange(n, device=box.device) + 0.5) * side for n in (n_down, n_across))
    more = WINDOW if share <= WINDOWED else math.inf
    inside_down = (down >= box[1] - more * height) & (down <= box[3] + more * height)
    inside_across = (across >= box[0] - more * width) & (across <= box[2] + more * width)
    return labels, (inside_down[:, None] & inside_across[None]).flatten().nonzero().flatten()
