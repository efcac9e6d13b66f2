"""Captum's methods that change how gradients pass activations, by hooks on the model's own modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from detxai.engine.masking.canvas import Filling
from detxai.methods.checks import check_target
from detxai.methods.from_captum.activations import check_relus, check_rescale_rule
from detxai.methods.from_captum.baselines import baseline_tensor, check_baseline
from detxai.methods.from_captum.gradients import in_words
from detxai.methods.from_captum.joint_gradients import BoxQuery, GradientMethod, largest, sum_against_scores, total
from detxai.targets import ClassScoreTarget, Target


@dataclass(frozen=True)
class GuidedBackprop(GradientMethod):
    """The gradient of the box's score, where every ReLU passes back only positive gradients.

    ``values = max over colours of |g|``, unsigned. It needs a network whose ReLUs are modules, and refuses any other (a
    YOLO has SiLUs, for which there is no rule). ReLUs that are called as functions keep their own gradient, as Captum
    documents. ``details`` counts both kinds, and a warning is logged; if most are functions, the network is refused.

    It is known to show the edges of the image rather than what the network uses (Adebayo et al., 2018).

    Args:
        target: the question about a box: a function from its box and label to a target.

    Source: Springenberg et al., 2015 (arXiv:1412.6806); by Captum's ``GuidedBackprop``.
    """

    name: ClassVar[str] = "guided_backprop"
    passes: ClassVar[str] = "2 forward and 1 backward; boxes share the forward passes"

    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        check_target(self.target)

    def attributions(self, query: BoxQuery) -> Tensor:
        check_relus(self.name, query)
        with query.scores.hookable() as module:
            return query.jointly("GuidedBackprop", module).attribute(query.image)

    def over_colours(self, attributions: Tensor) -> Tensor:
        return largest(attributions)


@dataclass(frozen=True)
class Deconvolution(GradientMethod):
    """The gradient of the box's score, where every ReLU is replaced by a ReLU of the gradient.

    ``values = max over colours of |g|``, unsigned. It is like ``GuidedBackprop``, but whether the ReLU's input was
    positive does not count. It changes the same ReLUs and refuses the same networks.

    Args:
        target: the question about a box: a function from its box and label to a target.

    Source: Zeiler & Fergus, 2014 (ECCV), in the form of Springenberg et al., 2015; by Captum's ``Deconvolution``.
    """

    name: ClassVar[str] = "deconvolution"
    passes: ClassVar[str] = "2 forward and 1 backward; boxes share the forward passes"

    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        check_target(self.target)

    def attributions(self, query: BoxQuery) -> Tensor:
        check_relus(self.name, query)
        with query.scores.hookable() as module:
            return query.jointly("Deconvolution", module).attribute(query.image)

    def over_colours(self, attributions: Tensor) -> Tensor:
        return largest(attributions)


@dataclass(frozen=True)
class DeepLift(GradientMethod):
    """The difference between image and baseline, traced back by slopes between the two instead of gradients, signed.

    ``values = sum over colours of (x - b) * m``. At each activation, the multiplier m takes the slope (output for x
    less output for b) / (input for x less input for b). This is the Rescale rule; it applies to modules only. What a
    detector computes in functions (the last sigmoid or softmax, the best of all candidates, in torchvision's heads also
    ReLU) counts as linear at x, and so does a custom activation module. So the values need not add up to
    ``score(x) - score(b)``: ``details`` has the three numbers.

    Networks for which Captum would be wrong without saying so are refused, with the reason: activation modules without
    a rule (SiLU), a module that runs several times in one pass (a YOLO's activations are one module, a ResNet block's
    ReLU runs twice), ReLUs that are mostly functions, no activation module at all.

    Args:
        baseline: ``"black"``, the image's ``"mean"`` colour, a ``"blur"`` of it, an RGB colour in [0, 1], or an image
            of the same size.
        target: the question about a box: a function from its box and label to a target.

    Source: Shrikumar et al., 2017 (ICML), in the form of Ancona et al., 2018 (ICLR); by Captum's ``DeepLift``.
    """

    name: ClassVar[str] = "deep_lift"
    is_signed: ClassVar[bool] = True
    passes: ClassVar[str] = "2 forward and 1 backward for each box, and 5 forward that boxes share"

    baseline: Filling | Sequence[float] | PIL.Image.Image | np.ndarray | Tensor = "black"
    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        check_baseline(self.baseline)
        check_target(self.target)

    def attributions(self, query: BoxQuery) -> Tensor:
        baseline = baseline_tensor(query.detector, query.clean, self.baseline)
        check_rescale_rule(self.name, query, baseline)
        found = []
        for scalar in query.scores.each():
            with scalar.hookable() as module:
                method = query.captum.DeepLift(module)
                found.append(method.attribute(query.clean.tensor.clone(), baselines=baseline).detach())
            query.scores.n_passes += scalar.n_passes
        return torch.stack(found, 1)

    def over_colours(self, attributions: Tensor) -> Tensor:
        return total(attributions)

    def details(self, query: BoxQuery, attributions: Tensor) -> list[dict[str, Any]]:
        baseline = baseline_tensor(query.detector, query.clean, self.baseline)
        return sum_against_scores(query, attributions, baseline)

    def recorded(self) -> dict[str, Any]:
        return {"baseline": in_words(self.baseline)}
