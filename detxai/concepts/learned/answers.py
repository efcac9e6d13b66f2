"""What the detector answers for the boxes of one image while parts of it are hidden: what an explainer learns from."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detxai.adapters.detector import Detector
from detxai.concepts.learned.subsets import shapley_subsets
from detxai.detections import Detections
from detxai.engine.learned.windows import GRID, N_WINDOWS, Windows
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.engine.masking.scoring import ViewScorer
from detxai.images import Image
from detxai.methods.pixel_evidence import PixelEvidence
from detxai.methods.region_shapley import boxes_on
from detxai.runs.files import write_bytes
from detxai.targets import ClassScoreTarget, ask_about

Array = npt.NDArray[Any]
FILLS: tuple[Filling, ...] = ("black", "mean")  # as in the default method; views take them in turn
LEVELS_OF_GREY = 255  # coverage is kept in a byte


@dataclass(frozen=True, eq=False)
class ImageAnswers:
    """The boxes of one image and the answers about them.

    Attributes:
        boxes: (T, 4) float32 xyxy, pixels of the image.
        labels: (T,) int64.
        whole: (T,) float32, the score of each box in the image itself.
        hidden: (T, F) float32, with nothing of the image shown, for each of ``FILLS``.
        coverage: (T, V, 2, GRID, GRID) uint8, 255 times what each of V subsets shows of each cell.
        shown: (T, V) float32, the score where the subset is shown and all else is hidden.
        rest: (T, V) float32, the score where the subset is hidden and all else is shown.
        evidence: (T, 2, GRID, GRID) float32 from 0, what the default method found in each cell; empty if not asked.
    """

    boxes: Array
    labels: Array
    whole: Array
    hidden: Array
    coverage: Array
    shown: Array
    rest: Array
    evidence: Array = field(default_factory=lambda: np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def detections(self) -> Detections:
        """The boxes, with the scores that they have in the image itself."""
        return Detections(self.boxes, self.whole.clip(0, 1), self.labels)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **asdict(self))
        write_bytes(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> ImageAnswers:
        """What ``save`` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(**{name: saved[name] for name in saved.files})


def ask_detector(
    detector: Detector, image: Image, detections: Detections, n_subsets: int, seed: int, label_passes: int = 0
) -> ImageAnswers:
    """The detector's answers about some boxes of an image, of which each gets random subsets of its own regions.

    That is ``2 * n_subsets`` views for each box, three for the image, and those of the maps.

    Args:
        detector: what is asked.
        image: the image.
        detections: T boxes of it.
        n_subsets: V for each box; 0: only the boxes and the scores of the image and of its fillings.
        seed: of the subsets and of the maps; another one for each image, so that no two images share theirs.
        label_passes: of the default method's map of each box, as amounts in the cells of its windows; 0: no maps. Few
            are enough: the noise of single maps averages out over many boxes.

    Source: Covert et al., 2024, Stochastic Amortization (NeurIPS): noisy labels, if right on average, train the same
    network as exact ones.
    """
    canvas = Canvas.with_fills(detector, image, FILLS, seed)
    scorer = ViewScorer(detector, canvas, ask_about(detections, ClassScoreTarget))
    hidden, whole = scorer.ends()
    windows = Windows(canvas.size, boxes_on(canvas, detections))
    coverage, scores = [], []
    for number in range(len(detections) if n_subsets else 0):
        subsets = torch.arange(n_subsets, device=whole.device)
        masks = shapley_subsets(canvas.size, windows.boxes[number], number * n_subsets + subsets, seed).float()
        coverage.append(windows.coverage(masks, torch.full_like(subsets, number)))
        views = torch.arange(2 * n_subsets, device=whole.device)
        both = torch.cat([masks, 1 - masks])
        of_box = scorer.own_under_masks(
            both.__getitem__, views, torch.full_like(views, number), views % n_subsets % len(FILLS)
        )
        scores.append(of_box.view(2, n_subsets))
    shape = (len(detections), n_subsets)
    cells = torch.stack(coverage) if coverage else whole.new_zeros(*shape, N_WINDOWS, GRID, GRID)
    answers = torch.stack(scores, 1) if scores else whole.new_zeros(2, *shape)
    evidence = whole.new_zeros(0)
    if label_passes and len(detections):
        found = PixelEvidence(max_passes=label_passes, seed=seed, progress=False)(detector, image, detections)
        maps = canvas.from_image(torch.stack([torch.from_numpy(one.values) for one in found]).to(whole.device))
        evidence = windows.amounts(maps.clamp(min=0), torch.arange(len(detections), device=whole.device)).float()
    grey = (cells * LEVELS_OF_GREY).round().to(torch.uint8)
    parts = (detections.boxes, detections.labels, whole, hidden, grey, *answers, evidence)
    return ImageAnswers(*(part.cpu().numpy() for part in parts))
