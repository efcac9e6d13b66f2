"""What Captum's methods that hide and show regions have in common: what every detector answers is enough."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.engine.masking.scoring import ViewScorer
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_count, check_seed, check_target
from detxai.methods.from_captum.baselines import check_baseline
from detxai.methods.from_captum.captum_module import captum_runs, import_captum
from detxai.methods.from_captum.image_regions import Cut, check_cut, cut_into_regions
from detxai.methods.from_captum.views import ViewScores
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import Target, ask_about

VIEWS_AT_ONCE = 64  # which regions are shown in how many views Captum makes at once: vectors, not images


class RegionMethod(ABC):
    """A method of Captum's on regions: a subclass is a frozen dataclass that says what Captum is asked.

    Captum is given a vector of ones, one for each region of the image, of which it sets some to 0; what it then
    attributes to a region is ``details["effects"]``. ``values`` is that effect over the region's area: signed, in units
    of the score a pixel, so that a map's sum is the sum of its effects. Regions lie in the pixels of the model's input.
    """

    name: ClassVar[str]
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "answers"
    is_signed: ClassVar[bool] = True
    passes: ClassVar[str]
    regions: Cut
    n_regions: int
    fill: Filling | Sequence[float]
    seed: int = 0  # of methods that draw nothing, too
    target: Callable[[Any, int], Target]
    batch_size: int | None
    progress: bool | None

    @abstractmethod
    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        """(T, R) what Captum attributes to each region for each box.

        Args:
            captum: the module ``captum.attr``.
            scores: from which regions are shown (B, R) to the scores (B, T) of the boxes.
            n_boxes: T.
            everything: (1, R), ones.
        """

    @abstractmethod
    def n_views(self, n_regions: int) -> int:
        """How many views of the image the detector is shown."""

    def least_samples(self, n_regions: int) -> int:
        """How many samples it takes to tell so many regions apart."""
        return 0

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection.

        Raises:
            ValueError: a label is wrong, or the settings do not allow for so many regions.
            ImportError: Captum is not installed, or scikit-image where it cuts the image.
        """
        started = perf_counter()
        captum = import_captum()
        if len(detections) == 0:
            return []
        canvas = Canvas.with_fill(detector, image, self.fill, self.seed)
        labels = cut_into_regions(canvas, self.regions, self.n_regions)
        areas = torch.bincount(labels.flatten())
        least, n_samples = self.least_samples(len(areas)), getattr(self, "n_samples", 0)
        if n_samples < least:
            raise ValueError(f"n_samples must be at least {least}, for {len(areas)} regions, got {n_samples}")
        targets, everything = ask_about(detections, self.target), torch.ones(1, len(areas), device=labels.device)
        with (
            detector.borrowed(),
            captum_runs(labels.device, self.seed),
            progress_bar(self.progress, self.n_views(len(areas)), "hiding regions", "view") as bar,
        ):
            scorer = ViewScorer(detector, canvas, targets, self.batch_size, on_views=bar.update)
            scores = ViewScores(scorer, labels)
            effects = self.effects(captum, scores, len(detections), everything).detach().to(labels.device).float()
        in_canvas = replace(canvas.geometry, input_size=canvas.size, offset=(0, 0))
        maps = in_canvas.amounts_to_image((effects / areas)[:, labels]).cpu()
        about = {"n_regions": len(areas), **canvas.details()}
        return explanations(
            self, detector, canvas.clean, detections, maps, started=started, passes=canvas.n_passes(scores.n_passes),
            details=[{**about, "effects": of_box} for of_box in effects.tolist()],
        )  # fmt: skip


def check_regions(method: Any) -> None:
    """Check the settings that these methods share."""
    check_cut(method.regions)
    check_count("n_regions", method.n_regions, 2)
    check_baseline(method.fill, "fill")
    check_seed(method.seed, from_zero=True)
    check_target(method.target)
    check_batch_size(method.batch_size)
