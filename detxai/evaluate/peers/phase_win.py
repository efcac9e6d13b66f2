"""PhaseWin: a greedy search over superpixels that accepts many of them at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.engine.masking.regions import import_slic, superpixels
from detxai.evaluate.peers.box_scores import BoxScores, check_peer, explain_each
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_count
from detxai.targets import ClassScoreTarget, Target

SORTED = 0.6  # of the phase's best: from it a region is a candidate of this phase
WINDOW = 0.3  # of the candidates that are left, scored again at a time
ACCEPTED = 0.99  # of the window's best: from it a region joins, without being scored once more


@dataclass(frozen=True)
class PhaseWin:
    """Regions ordered by a greedy search in phases, at about half the passes of a plain one.

    The score of a set S of regions is ``F(S) = f(S shown) + 1 - f(S hidden)``. In each phase:

    1. ``F(S + r)`` is asked of every region r that is left, and the best one joins S;
    2. those from .6 of the best's score are candidates, the best first; the others wait for the next phase;
    3. the first 30 % of the candidates are scored again, with what S is by now, and all within .99 of their best join;
       that is repeated until no candidate is left, or the window's best falls below .6 of the phase's best.

    The map is the order: n for the region that joined first, 1 for the last, over n.

    Args:
        n_regions: about how many superpixels.
        fill: what stands where a region is hidden.
        seed: of a fill of noise; nothing else is random.
        target: from a detection's box and label to the target that is scored.
        batch_size: views at once; None: what fits the device.

    Raises:
        ImportError: scikit-image is not installed.

    Source: PhaseWin (CVPR 2026), from its definition; F from Visual Precision Search (Chen et al., 2025, CVPR). Differs
    in SLIC with a fixed compactness of 20 in the place of SLICO, and in when a phase ends, which is our reading of
    "when gains collapse". Its thresholds are of F itself, as there, so they hardly ever hold a region back.
    """

    name: ClassVar[str] = "phase_win"
    asks_about_boxes: ClassVar[bool] = True

    n_regions: int = 100
    fill: Filling | Sequence[float] = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    precision: ClassVar[str] = "full"

    def __post_init__(self) -> None:
        check_count("n_regions", self.n_regions, 2)
        import_slic()
        check_peer(self)

    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        return explain_each(self, detector, image, detections, self._map)

    def _map(self, scores: BoxScores) -> Tensor:
        labels = superpixels(photo_on(scores.canvas), self.n_regions).labels[0]
        order = search(lambda sets: self._worth(scores, sets, labels), int(labels.max()) + 1)
        values = torch.zeros(len(order))
        values[order] = torch.arange(len(order), 0, -1) / len(order)
        return values.to(labels.device)[labels]

    def _worth(self, scores: BoxScores, sets: Tensor, labels: Tensor) -> Tensor:
        shown, hidden = scores.with_regions(torch.cat([sets, ~sets]), labels).chunk(2)
        return shown + 1 - hidden


def photo_on(canvas: Canvas) -> Tensor:
    """(3, h, w) in [0, 1]: the photo at the canvas's pixels, before any normalisation of the model's."""
    photo = torch.from_numpy(canvas.clean.images[0]).permute(2, 0, 1) / 255
    return canvas.from_image(photo.to(canvas.clean.tensor.device)).clamp(0, 1)


def search(worth: Callable[[Tensor], Tensor], n: int) -> list[int]:
    """The order in which n regions join: see ``PhaseWin``.

    Args:
        worth: from sets (m, n) bool to their F (m,).
        n: how many regions.
    """
    state, left, order = torch.zeros(n, dtype=torch.bool), list(range(n)), []

    def with_each(regions: Sequence[int]) -> Tensor:
        sets = state.repeat(len(regions), 1)
        sets[torch.arange(len(regions)), list(regions)] = True
        return worth(sets)

    def join(regions: Sequence[int]) -> None:
        for region in regions:
            state[region] = True
            order.append(region)
            left.remove(region)

    while left:
        values = with_each(left)
        best = float(values.max())
        ranked = [left[i] for i in values.argsort(descending=True, stable=True).tolist() if values[i] >= SORTED * best]
        join(ranked[:1])
        candidates = ranked[1:]
        while candidates:
            window = candidates[: math.ceil(WINDOW * len(candidates))]
            values = with_each(window)
            highest = float(values.max())
            if highest < SORTED * best:
                break
            ranked = [window[i] for i in values.argsort(descending=True, stable=True).tolist()]
            n_accepted = max(1, int((values >= ACCEPTED * highest).sum()))
            join(ranked[:n_accepted])
            candidates = ranked[n_accepted:] + candidates[len(window) :]
    return order
