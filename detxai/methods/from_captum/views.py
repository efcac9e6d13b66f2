"""What the boxes of one image score in views that show parts of it, as Captum asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.engine.masking.perturbing import Canvas
from detxai.engine.masking.scoring import scores_under
from detxai.targets import Target


class ViewScores:
    """From which parts of an image are shown to the scores of T boxes: one pass a view, for all boxes.

    As many views run at once as memory allows; running out of memory halves them.

    Args:
        detector: what looks.
        canvas: the image, and what stands where it is hidden.
        targets: T questions.
        batch_size: views at once; None: what fits the device.
        labels: (h, w) int64 the region of each pixel of the canvas; None: a view says of each pixel how much it shows.

    Attributes:
        n_passes: how many views the detector has seen so far.
    """

    def __init__(
        self,
        detector: Detector,
        canvas: Canvas,
        targets: Sequence[Target],
        batch_size: int | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.detector, self.canvas, self.targets = detector, canvas, list(targets)
        self.batch_size, self.labels = batch_size, labels
        self.n_passes = 0

    def __call__(self, shown: Tensor) -> Tensor:
        """(B, T) the scores where ``shown`` (B, R) of the regions, or (B, 1, h, w) of the pixels, is seen."""
        found = scores_under(
            lambda numbers: self._keep(shown[numbers]), range(len(shown)), self.detector, self.canvas, self.targets,
            batch_size=self.batch_size,
        )  # fmt: skip
        scores = torch.cat([some for _, some in found], 1).T
        self.n_passes += len(shown)
        return scores

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
