"""Captum's methods that hide and show regions: what every detector answers is enough."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from detxai.methods.checks import check_count, check_number, check_seed, check_target
from detxai.methods.from_captum.baselines import check_baseline
from detxai.methods.from_captum.captum_module import captum_runs, import_captum
from detxai.methods.from_captum.image_regions import Cut, check_cut, cut_into_regions
from detxai.methods.from_captum.views import RepeatedScores, ViewScores
from detxai.methods.results import explanations
from detxai.targets import ClassScoreTarget, Target, ask_about

VIEWS_AT_ONCE = 64  # which regions are shown in how many views Captum makes at once: vectors, not images


class RegionMethod(ABC):
    """What these methods have in common: a subclass is a frozen dataclass that says what Captum is asked.

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

    @abstractmethod
    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        """(T, R) what Captum attributes to each region for each box.

        Args:
            captum: the module ``captum.attr``.
            scores: from which regions are shown (B, R) to the scores (B, T) of the boxes.
            n_boxes: T.
            everything: (1, R), ones.
        """

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
        scorer = ViewScorer(detector, canvas, ask_about(detections, self.target), self.batch_size)
        scores = ViewScores(scorer, labels)
        with detector.borrowed(), captum_runs(labels.device, self.seed):
            everything = torch.ones(1, len(areas), device=labels.device)
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


@dataclass(frozen=True)
class FeatureAblation(RegionMethod):
    """What the score loses when one region is hidden: ``effect = score(image) - score(image without it)``.

    Args:
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden: ``"black"``, ``"mean"``, ``"blur"``, ``"noise"`` or an RGB colour.
        target: from a detection's box and label to the question asked of it.
        batch_size: views at once; None: what fits the device.

    Source: Captum's ``FeatureAblation``.
    """

    name: ClassVar[str] = "feature_ablation"
    passes: ClassVar[str] = "1 + the number of regions; all boxes share them"

    regions: Cut = "superpixels"
    n_regions: int = 60
    fill: Filling | Sequence[float] = "black"
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_regions(self)

    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        method = captum.FeatureAblation(scores)
        found: Tensor = method.attribute(everything, baselines=0, perturbations_per_eval=VIEWS_AT_ONCE)
        return found.reshape(n_boxes, -1)


@dataclass(frozen=True)
class ShapleySampling(RegionMethod):
    """The Shapley values of the regions, by random orders in which they appear one by one.

    ``effect = mean over orders of the change of the score when the region appears``. The effects add up to
    ``score(image) - score(nothing shown)``, exactly, whatever the number of orders.

    Args:
        n_orders: random orders.
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden.
        seed: of the orders.
        target: from a detection's box and label to the question asked of it.
        batch_size: views at once; None: what fits the device.

    Source: Castro et al., 2009 (Computers & Operations Research 36); Strumbelj & Kononenko, 2010 (JMLR 11); by Captum's
    ``ShapleyValueSampling``.
    """

    name: ClassVar[str] = "shapley_sampling"
    passes: ClassVar[str] = "1 + n_orders times the number of regions; all boxes share them"

    n_orders: int = 10
    regions: Cut = "superpixels"
    n_regions: int = 60
    fill: Filling | Sequence[float] = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_count("n_orders", self.n_orders, 1)
        check_regions(self)

    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        method = captum.ShapleyValueSampling(scores)
        found: Tensor = method.attribute(
            everything, baselines=0, n_samples=self.n_orders, perturbations_per_eval=VIEWS_AT_ONCE
        )
        return found.reshape(n_boxes, -1)


@dataclass(frozen=True)
class KernelShap(RegionMethod):
    """The Shapley values of the regions, by the linear model of the score that fits random sets of shown regions best.

    Sets are drawn by the Shapley kernel's weight; the empty and the full one weigh 1,000,000 times as much, so that
    the effects add up to ``score(image) - score(nothing shown)`` but for rounding. Fewer samples than regions are
    refused, and several times as many are needed for values that another seed would give too.

    Args:
        n_samples: sets of regions shown, with the full and the empty one; at least two more than there are regions.
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden.
        seed: of the sets.
        target: from a detection's box and label to the question asked of it.
        batch_size: views at once; None: what fits the device.

    Source: Lundberg & Lee, 2017 (NeurIPS), theorem 2; by Captum's ``KernelShap``.
    """

    name: ClassVar[str] = "kernel_shap"
    passes: ClassVar[str] = "n_samples; all boxes share them"

    n_samples: int = 800
    regions: Cut = "superpixels"
    n_regions: int = 60
    fill: Filling | Sequence[float] = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, 4)
        check_regions(self)

    def least_samples(self, n_regions: int) -> int:
        return n_regions + 2

    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        return one_box_after_another(self, captum.KernelShap, scores, n_boxes, everything)


@dataclass(frozen=True)
class Lime(RegionMethod):
    """The effects of regions on the score in a sparse linear model, fitted to random views near the image.

    Each view shows half of the regions, on average. It weighs ``exp(-d^2 / (2 kernel_width^2))``, d the cosine distance
    between which regions it shows and all of them, as in LIME's own code for images. The model is the Lasso.

    Args:
        n_samples: views; at least two more than there are regions.
        alpha: of the Lasso's penalty, in units of the score, from 0: effects of about this size and below become 0.
            Captum's own default is .01.
        kernel_width: of the weights, above 0.
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden.
        seed: of the views.
        target: from a detection's box and label to the question asked of it.
        batch_size: views at once; None: what fits the device.

    Source: Ribeiro et al., 2016 (KDD); by Captum's ``Lime``.
    """

    name: ClassVar[str] = "lime"
    passes: ClassVar[str] = "n_samples; all boxes share them"

    n_samples: int = 400
    alpha: float = 0.001
    kernel_width: float = 0.25
    regions: Cut = "superpixels"
    n_regions: int = 60
    fill: Filling | Sequence[float] = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, 4)
        check_number("alpha", self.alpha, above=0)
        check_number("kernel_width", self.kernel_width, above=0)
        check_regions(self)

    def least_samples(self, n_regions: int) -> int:
        return n_regions + 2

    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        from captum._utils.models.linear_model import SkLearnLasso  # where Captum's documentation has it from
        from captum.attr._core.lime import get_exp_kernel_similarity_function

        def lime(forward: Callable[..., Tensor]) -> Any:
            weight = get_exp_kernel_similarity_function("cosine", self.kernel_width)
            return captum.Lime(forward, interpretable_model=SkLearnLasso(alpha=self.alpha), similarity_func=weight)

        return one_box_after_another(self, lime, scores, n_boxes, everything)


def one_box_after_another(
    method: KernelShap | Lime, kind: Callable[..., Any], scores: ViewScores, n_boxes: int, everything: Tensor
) -> Tensor:
    """(T, R): Captum fits one box at a time; the views are the same for all, and are shown to the detector once."""
    repeated = RepeatedScores(scores)
    found = []
    for box in range(n_boxes):
        repeated.start(box)
        with captum_runs(everything.device, method.seed):
            fitted = kind(repeated).attribute(
                everything, baselines=0, n_samples=method.n_samples, perturbations_per_eval=VIEWS_AT_ONCE
            )
        found.append(fitted.reshape(-1))
    return torch.stack(found)
