"""What the boxes of one image score in views that show parts of it, as Captum asks for it."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.masking.scoring import ViewScorer


class ViewScores:
    """From which parts of an image are shown to the scores of T boxes: one pass a view, for all boxes.

    Args:
        scorer: of T targets.
        labels: (h, w) int64 the region of each pixel of the canvas; None: a view says of each pixel how much it shows.

    Attributes:
        n_passes: how many views the detector has seen so far.
    """

    def __init__(self, scorer: ViewScorer, labels: Tensor | None = None) -> None:
        self.scorer, self.labels = scorer, labels
        self.n_passes = 0

    def __call__(self, shown: Tensor) -> Tensor:
        """(B, T) the scores where ``shown`` (B, R) of the regions, or (B, 1, h, w) of the pixels, is seen."""
        self.n_passes += len(shown)
        return self.scorer.under_masks(lambda numbers: self._keep(shown[numbers]), range(len(shown))).T

    def _keep(self, shown: Tensor) -> Tensor:
        return shown[:, 0] if self.labels is None else shown[:, self.labels]


class RepeatedScores:
    """The scores of one box after another in the same views, of which the detector sees each only once.

    Raises:
        RuntimeError: the views of a later box are others.
    """

    def __init__(self, scores: ViewScores) -> None:
        self.scores = scores
        self.box = self.place = 0
        self.seen: list[tuple[Tensor, Tensor]] = []

    def start(self, box: int) -> None:
        """From here on, the scores of this box, from the first view on."""
        self.box, self.place = box, 0

    def __call__(self, shown: Tensor) -> Tensor:
        """(B,) the box's score where ``shown`` (B, R) of the regions is seen."""
        if self.place == len(self.seen):
            self.seen.append((shown.clone(), self.scores(shown)))
        views, scores = self.seen[self.place]
        if not torch.equal(views, shown):
            raise RuntimeError("Captum drew other views for another box with the same seed")
        self.place += 1
        return scores[:, self.box]
