"""SmoothGrad: a gradient method averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import PIL.Image
from torch import Tensor

from detxai.engine.masking.canvas import Filling
from detxai.methods.checks import check_choice, check_count, check_seed, check_target
from detxai.methods.from_captum.activations import check_relus
from detxai.methods.from_captum.baselines import baseline_tensor, check_baseline
from detxai.methods.from_captum.gradients import check_stdev, in_words, noise_stdev
from detxai.methods.from_captum.joint_gradients import AT_ONCE, BoxQuery, GradientMethod, largest, total
from detxai.targets import ClassScoreTarget, Target

Kind = Literal["smoothgrad", "smoothgrad_sq", "vargrad"]
SMOOTHED = {
    "saliency": "Saliency",
    "input_x_gradient": "InputXGradient",
    "integrated_gradients": "IntegratedGradients",
    "guided_backprop": "GuidedBackprop",
    "deconvolution": "Deconvolution",
}
WITH_HOOKS = ("guided_backprop", "deconvolution")
SIGNED = ("input_x_gradient", "integrated_gradients")


@dataclass(frozen=True)
class SmoothGrad(GradientMethod):
    """A gradient method's attributions for noisy copies of the image: their mean, or how much they vary.

    - ``"smoothgrad"``: the mean. Colours are combined as in the method itself: largest magnitude, or signed sum.
    - ``"smoothgrad_sq"``: the mean of the squares, summed over the colours.
    - ``"vargrad"``: the variance, summed over the colours.

    Gradients are averaged with their signs, as in the paper, and not by their magnitudes.

    Args:
        of: the gradient method: ``"saliency"``, ``"input_x_gradient"``, ``"integrated_gradients"``,
            ``"guided_backprop"`` or ``"deconvolution"``.
        kind: one of the three above.
        n_samples: noisy copies, at least 2.
        stdev: standard deviation of the noise, as a share of the range of the prepared image's values, from 0. The
            paper finds .1 to .2 good for classifiers; a detector may lose the box in that much noise.
        steps: for ``"integrated_gradients"``: its points on the line, for each copy.
        baseline: for ``"integrated_gradients"``: its baseline.
        seed: of the random noise.
        target: the question about a box: a function from its box and label to a target.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Smilkov et al., 2017 (arXiv:1706.03825); Hooker et al., 2019 (NeurIPS), squares; Adebayo et al., 2018
    (arXiv:1810.03307), variance; by Captum's ``NoiseTunnel``.
    """

    name: ClassVar[str] = "smooth_grad"
    passes: ClassVar[str] = "n_samples forward and backward (times steps); up to 4 boxes share the forward passes"
    images_of_one_call: ClassVar[int] = AT_ONCE

    of: str = "saliency"
    kind: Kind = "smoothgrad"
    n_samples: int = 32
    stdev: float = 0.1
    steps: int = 16
    baseline: Filling | Sequence[float] | PIL.Image.Image | np.ndarray | Tensor = "black"
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_choice("of", self.of, SMOOTHED)
        check_choice("kind", self.kind, get_args(Kind))
        check_count("n_samples", self.n_samples, 2)
        check_stdev(self.stdev)
        check_count("steps", self.steps, 2)
        check_baseline(self.baseline)
        check_seed(self.seed, from_zero=True)
        check_target(self.target)

    def n_images(self) -> int:
        return self.n_samples * (self.steps if self.of == "integrated_gradients" else 1)

    def attributions(self, query: BoxQuery) -> Tensor:
        settings: dict[str, Any] = {"nt_samples_batch_size": AT_ONCE}
        with ExitStack() as stack:
            module = None
            if self.of in WITH_HOOKS:
                check_relus(f"smooth_grad of {self.of}", query)
                module = stack.enter_context(query.scores.hookable())
            if self.of == "saliency":
                settings["abs"] = False
            if self.of == "integrated_gradients":
                baseline = baseline_tensor(query.detector, query.clean, self.baseline)[:, None]
                settings = {
                    "nt_samples_batch_size": 1, "baselines": baseline, "n_steps": self.steps,
                    "internal_batch_size": AT_ONCE,
                }  # fmt: skip
            tunnel = query.captum.NoiseTunnel(query.jointly(SMOOTHED[self.of], module))
            found: Tensor = tunnel.attribute(
                query.image, nt_type=self.kind, nt_samples=self.n_samples, stdevs=noise_stdev(query, self.stdev),
                **settings,
            )  # fmt: skip
        return found

    def over_colours(self, attributions: Tensor) -> Tensor:
        return largest(attributions) if self.kind == "smoothgrad" and self.of not in SIGNED else total(attributions)

    def recorded(self) -> dict[str, Any]:
        return {"baseline": in_words(self.baseline)}
