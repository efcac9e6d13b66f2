"""Captum's methods that need gradients alone: saliency, input x gradient, and gradients along a path to a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from detxai.engine.masking.canvas import Filling
from detxai.methods.checks import check_count, check_seed, check_target
from detxai.methods.from_captum.baselines import Baseline, baseline_tensor, check_baseline
from detxai.methods.from_captum.joint_gradients import (
    AT_ONCE,
    BoxQuery,
    GradientMethod,
    largest,
    sum_against_scores,
    total,
)
from detxai.targets import ClassScoreTarget, Target


@dataclass(frozen=True)
class Saliency(GradientMethod):
    """How much the box's score changes with each pixel: ``values = max over colours of |dy / dx|``, unsigned.

    Args:
        target: the question about a box: a function from its box and label to a target.

    Source: Simonyan et al., 2014, section 3.1, which takes that maximum; by Captum's ``Saliency``.
    """

    name: ClassVar[str] = "saliency"
    passes: ClassVar[str] = "1 forward and 1 backward; boxes share the forward pass"

    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        check_target(self.target)

    def attributions(self, query: BoxQuery) -> Tensor:
        return query.jointly("Saliency").attribute(query.image)

    def over_colours(self, attributions: Tensor) -> Tensor:
        return largest(attributions)


@dataclass(frozen=True)
class InputXGradient(GradientMethod):
    """Each pixel times the gradient at it: ``values = sum over colours of x * dy / dx``, signed.

    ``x`` is the pixel as the model reads it, so that 0 is black for a YOLO, and the mean colour of its normalisation
    for a torchvision model.

    Args:
        target: the question about a box: a function from its box and label to a target.

    Source: Shrikumar et al., 2016 (arXiv:1605.01713); by Captum's ``InputXGradient``.
    """

    name: ClassVar[str] = "input_x_gradient"
    is_signed: ClassVar[bool] = True
    passes: ClassVar[str] = "1 forward and 1 backward; boxes share the forward pass"

    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        check_target(self.target)

    def attributions(self, query: BoxQuery) -> Tensor:
        return query.jointly("InputXGradient").attribute(query.image)

    def over_colours(self, attributions: Tensor) -> Tensor:
        return total(attributions)


@dataclass(frozen=True)
class IntegratedGradients(GradientMethod):
    """The difference between the scores of the image and of a baseline, distributed over the pixels, signed.

    ``values = sum over colours of (x - b) * mean over the straight line from b to x of dy / dx``. In the limit of many
    steps they add up to ``score(x) - score(b)``, both at the proposals of x (``details`` has the three numbers).
    A detector's score is that of the best of many candidates. The best one changes along the way, so more steps are
    needed than for a classifier.

    Args:
        baseline: ``"black"``, the image's ``"mean"`` colour, a ``"blur"`` of it, an RGB colour in [0, 1], or an image
            of the same size. A pixel that equals its baseline gets nothing.
        steps: points on the line, at least 2: those of a Gauss-Legendre quadrature.
        target: the question about a box: a function from its box and label to a target.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Sundararajan et al., 2017 (ICML); by Captum's ``IntegratedGradients``.
    """

    name: ClassVar[str] = "integrated_gradients"
    is_signed: ClassVar[bool] = True
    passes: ClassVar[str] = "steps forward and backward, and 2; up to 4 boxes share the forward passes"
    images_of_one_call: ClassVar[int] = AT_ONCE

    baseline: Filling | Sequence[float] | PIL.Image.Image | np.ndarray | Tensor = "black"
    steps: int = 64
    target: Callable[[Any, int], Target] = ClassScoreTarget
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_baseline(self.baseline)
        check_count("steps", self.steps, 2)
        check_target(self.target)

    def n_images(self) -> int:
        return self.steps

    def attributions(self, query: BoxQuery) -> Tensor:
        return query.jointly("IntegratedGradients").attribute(
            query.image, baselines=self._baseline(query)[:, None], n_steps=self.steps, internal_batch_size=AT_ONCE
        )

    def over_colours(self, attributions: Tensor) -> Tensor:
        return total(attributions)

    def details(self, query: BoxQuery, attributions: Tensor) -> list[dict[str, Any]]:
        return sum_against_scores(query, attributions, self._baseline(query))

    def recorded(self) -> dict[str, Any]:
        return {"baseline": in_words(self.baseline)}

    def _baseline(self, query: BoxQuery) -> Tensor:
        return baseline_tensor(query.detector, query.clean, self.baseline)


@dataclass(frozen=True)
class GradientShap(GradientMethod):
    """Integrated gradients averaged over several baselines and over noisy copies of the image, signed.

    ``values = sum over colours of the mean over n_samples of (x' - b) * dy / dx at b + a (x' - b)``, with x' the image
    with Gaussian noise, b one of the baselines and a uniform in [0, 1]. If the score is linear, the expectation is the
    Shapley value of each pixel.

    Args:
        baselines: several of ``"black"``, ``"mean"``, ``"blur"``, ``"noise"`` and RGB colours in [0, 1]; each sample
            takes one of them at random.
        n_samples: how many samples.
        stdev: standard deviation of the noise, as a share of the range of the prepared image's values, from 0.
        seed: of the random samples.
        target: the question about a box: a function from its box and label to a target.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Lundberg & Lee, 2017 (NeurIPS), as the package shap's ``GradientExplainer``; by Captum's ``GradientShap``.
    """

    name: ClassVar[str] = "gradient_shap"
    is_signed: ClassVar[bool] = True
    passes: ClassVar[str] = "n_samples forward and backward; up to 4 boxes share the forward passes"
    images_of_one_call: ClassVar[int] = AT_ONCE

    baselines: Sequence[Filling | Sequence[float]] = ("black", "mean", "blur")
    n_samples: int = 64
    stdev: float = 0.05
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    progress: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.baselines, (list, tuple)) or not self.baselines:
            raise ValueError(f"baselines must be a list of fillings, at least one, got {self.baselines!r}")
        for baseline in self.baselines:
            check_baseline(baseline, "each of the baselines")
        check_count("n_samples", self.n_samples, 1)
        check_stdev(self.stdev)
        check_seed(self.seed, from_zero=True)
        check_target(self.target)

    def n_images(self) -> int:
        return self.n_samples

    def attributions(self, query: BoxQuery) -> Tensor:
        baselines = [baseline_tensor(query.detector, query.clean, one, self.seed) for one in self.baselines]
        drawn_from, stdev = torch.cat(baselines)[:, None], noise_stdev(query, self.stdev)
        method, sums = query.jointly("GradientShap"), torch.zeros(())
        for first in range(0, self.n_samples, AT_ONCE):  # Captum would hold all samples at once
            n = min(AT_ONCE, self.n_samples - first)
            found = method.attribute(query.image, baselines=drawn_from, n_samples=n, stdevs=stdev)
            sums = sums.to(found) + found * (n / self.n_samples)
        return sums

    def over_colours(self, attributions: Tensor) -> Tensor:
        return total(attributions)


def noise_stdev(query: BoxQuery, share: float) -> float:
    """The standard deviation of noise, as a share of the range of the prepared image's values."""
    low, high = query.clean.tensor.aminmax()
    return share * float(high - low)


def check_stdev(stdev: object) -> None:
    """Raise ``ValueError`` where ``stdev`` is no number from 0."""
    if isinstance(stdev, bool) or not isinstance(stdev, (int, float)) or not 0 <= stdev < float("inf"):
        raise ValueError(f"stdev must be a number from 0, a share of the image's range, got {stdev!r}")


def in_words(baseline: Baseline) -> Any:
    """A baseline as JSON can hold it."""
    if isinstance(baseline, (str, list, tuple)):
        return list(baseline) if isinstance(baseline, (list, tuple)) else baseline
    return f"an image: {type(baseline).__name__}"
