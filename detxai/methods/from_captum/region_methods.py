"""Captum's methods that hide and show regions, one after another or by a model of the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.engine.masking.canvas import Filling
from detxai.methods.checks import check_count, check_number
from detxai.methods.from_captum.captum_module import captum_runs
from detxai.methods.from_captum.image_regions import Cut
from detxai.methods.from_captum.region_method import VIEWS_AT_ONCE, RegionMethod, check_regions
from detxai.methods.from_captum.views import RepeatedScores, ViewScores
from detxai.targets import ClassScoreTarget, Target


@dataclass(frozen=True)
class FeatureAblation(RegionMethod):
    """What the score loses when one region is hidden: ``effect = score(image) - score(image without it)``.

    Args:
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden: ``"black"``, ``"mean"``, ``"blur"``, ``"noise"`` or an RGB colour.
        target: the question about a box: a function from its box and label to a target.
        batch_size: views at once; None: as many as fit on the device.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Captum's ``FeatureAblation``.
    """

    name: ClassVar[str] = "feature_ablation"
    passes: ClassVar[str] = "1 + the number of regions; all boxes share them"

    regions: Cut = "superpixels"
    n_regions: int = 60
    fill: Filling | Sequence[float] = "black"
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_regions(self)

    def n_views(self, n_regions: int) -> int:
        return 1 + n_regions

    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        method = captum.FeatureAblation(scores)
        found: Tensor = method.attribute(everything, baselines=0, perturbations_per_eval=VIEWS_AT_ONCE)
        return found.reshape(n_boxes, -1)


@dataclass(frozen=True)
class ShapleySampling(RegionMethod):
    """The Shapley values of the regions, from random orders in which they appear one by one.

    ``effect = mean over orders of the change of the score when the region appears``. The effects add up to
    ``score(image) - score(nothing shown)``, exactly, whatever the number of orders.

    Args:
        n_orders: how many random orders.
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden, as for ``FeatureAblation``.
        seed: of the random orders.
        target: the question about a box: a function from its box and label to a target.
        batch_size: views at once; None: as many as fit on the device.
        progress: whether to show a progress bar; None: only in a terminal.

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
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_count("n_orders", self.n_orders, 1)
        check_regions(self)

    def n_views(self, n_regions: int) -> int:
        return 1 + self.n_orders * n_regions

    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        method = captum.ShapleyValueSampling(scores)
        found: Tensor = method.attribute(
            everything, baselines=0, n_samples=self.n_orders, perturbations_per_eval=VIEWS_AT_ONCE
        )
        return found.reshape(n_boxes, -1)


@dataclass(frozen=True)
class KernelShap(RegionMethod):
    """The Shapley values of the regions, from a linear model of the score fitted to random sets of shown regions.

    Sets are drawn with the weights of the Shapley kernel. The empty and the full set weigh 1,000,000 times as much, so
    the effects add up to ``score(image) - score(nothing shown)`` up to rounding. Fewer samples than regions are
    refused. Another seed gives the same values only if there are several times as many samples as regions.

    Args:
        n_samples: sets of regions shown, with the full and the empty one; at least two more than there are regions.
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden, as for ``FeatureAblation``.
        seed: of the random sets.
        target: the question about a box: a function from its box and label to a target.
        batch_size: views at once; None: as many as fit on the device.
        progress: whether to show a progress bar; None: only in a terminal.

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
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, 4)
        check_regions(self)

    def n_views(self, n_regions: int) -> int:
        return self.n_samples

    def least_samples(self, n_regions: int) -> int:
        return n_regions + 2

    def effects(self, captum: Any, scores: ViewScores, n_boxes: int, everything: Tensor) -> Tensor:
        return one_box_after_another(self, captum.KernelShap, scores, n_boxes, everything)


@dataclass(frozen=True)
class Lime(RegionMethod):
    """The effects of the regions on the score, from a sparse linear model fitted to random views of the image.

    Each view shows half of the regions, on average. Its weight in the fit is ``exp(-d^2 / (2 kernel_width^2))``, d the
    cosine distance between the regions it shows and all regions, as in LIME's own code for images. The model is the
    Lasso.

    Args:
        n_samples: views; at least two more than there are regions.
        alpha: the strength of the Lasso's penalty, above 0, in units of the score: smaller effects become 0. Captum's
            own default is .01.
        kernel_width: above 0; smaller values give more weight to views that show nearly everything.
        regions: ``"superpixels"`` (needs scikit-image) or ``"grid"``.
        n_regions: about how many, at least 2, over the whole image.
        fill: what is seen where a region is hidden, as for ``FeatureAblation``.
        seed: of the random views.
        target: the question about a box: a function from its box and label to a target.
        batch_size: views at once; None: as many as fit on the device.
        progress: whether to show a progress bar; None: only in a terminal.

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
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, 4)
        check_number("alpha", self.alpha, above=0)
        check_number("kernel_width", self.kernel_width, above=0)
        check_regions(self)

    def n_views(self, n_regions: int) -> int:
        return self.n_samples

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
