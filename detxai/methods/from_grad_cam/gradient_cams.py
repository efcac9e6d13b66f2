"""grad-cam's methods that weigh features by the gradient of a box's score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.adapters.network import require_network
from detxai.detections import Candidates, Detections
from detxai.engine.batching import is_out_of_memory
from detxai.engine.gradients import Trace
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.methods.checks import check_count, check_flag, check_number, check_target
from detxai.methods.eigen_cam import principal_projection
from detxai.methods.from_grad_cam.formulas import as_array, formula_of, grad_cam_class, join_levels
from detxai.methods.results import explanations
from detxai.targets import ClassScoreTarget, Target, ask_about, score_targets


@dataclass(frozen=True)
class GradientCAM:
    """What grad-cam's gradient methods have in common; each says by its formula what becomes of a level.

    One forward pass for the image and one backward pass a box give the features A of each level and the gradients g of
    the box's score y. The formula of grad-cam's own class turns them into a map over the level's cells. ``values`` is
    that map, brought to the image. It keeps its sign, because it is taken before grad-cam clips it at 0 and scales it
    to [0, 1]; the heatmap is the positive part over its peak, as in grad-cam's own picture. Several levels: see
    ``join_levels``.

    Args:
        layers: names of the layers; default: those that the adapter chooses.
        propagate: for layers that read one another (on a YOLO, model.18 and model.21 read model.15). True: a change of
            one runs on through the others, as for grad-cam's hooks on the network itself. False: the outputs of the
            others stay as they are, as for grad-cam on ``detxai.adapters.GradCamView``.
        target: the question about a box: a function from its box and label to a target, whose score is y.
    """

    name: ClassVar[str]
    grad_cam_name: ClassVar[str]
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "gradients"
    passes: ClassVar[str] = "1 pass for the image, 1 backward pass a box"

    layers: Sequence[str] | str | None = None
    propagate: bool = True
    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        check_flag("propagate", self.propagate)
        check_target(self.target)

    @in_full_precision
    @on_best_slice
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection.

        Raises:
            ValueError: a label is wrong, or the target or the network has no gradients.
            LookupError: a layer is unknown.
            TypeError: the detector is a plain function, without a network.
            ImportError: grad-cam is missing, or too old to have the method.
        """
        detector = require_network(detector)
        names = detector.layer_names(self.layers)
        formula = formula_of(self.grad_cam_name, detector.device)
        started = time.perf_counter()
        if len(detections) == 0:
            return []
        with detector.borrowed():
            trace = Trace.from_image(detector, image, names, propagate=self.propagate)
            geometry = trace.inputs.geometries[0]
            with torch.enable_grad():
                scores = self._scores(trace.candidates, detections)
                maps = [join_levels(self._level_maps(formula, trace, y), geometry) for y in scores]
        return explanations(
            self, detector, trace.inputs, detections, maps, started=started, passes=1, layers=list(trace.levels)
        )

    def _scores(self, candidates: Candidates, detections: Detections) -> Tensor:
        """(T,) what is traced back."""
        return score_targets(ask_about(detections, self.target), candidates)[:, 0]

    def _level_maps(self, formula: Any, trace: Trace, score: Tensor) -> list[Tensor]:
        """(h, w) for each level."""
        gradients = trace.gradients(score)
        return [self._level_map(formula, *pair) for pair in zip(trace.levels.values(), gradients, strict=True)]

    def _level_map(self, formula: Any, level: Tensor, gradient: Tensor) -> Tensor:
        """(h, w) from features and gradients, both (1, C, h, w)."""
        (cells,) = formula.get_cam_image(None, None, None, as_array(level), as_array(gradient), False)
        return torch.from_numpy(cells).to(level.device)


@dataclass(frozen=True)
class GradCAM(GradientCAM):
    """Grad-CAM: each channel weighed by the mean of its gradient, ``sum_c mean(g_c) A_c``.

    The mean forgets where the gradient was, so other objects with the same features light up in the map too.
    Settings and ``values``: see ``GradientCAM``.

    Source: Selvaraju et al., 2017 (ICCV), by grad-cam's ``GradCAM``.
    """

    name: ClassVar[str] = "grad_cam"
    grad_cam_name: ClassVar[str] = "GradCAM"


@dataclass(frozen=True)
class GradCAMPlusPlus(GradientCAM):
    """Grad-CAM++: each channel weighed by its positive gradients, so that small causes count as much as large ones.

    ``sum_c w_c A_c`` with ``w_c = sum(alpha relu(g))`` and ``alpha = g^2 / (2 g^2 + sum(A) g^3 + 1e-6)``, 0 where g is
    0. The gradients of a detector's scores are often so small that grad-cam's 1e-6 outweighs them. Then alpha grows
    with g^2, and a few places decide. Settings and ``values``: see ``GradientCAM``.

    Source: Chattopadhay et al., 2018 (WACV), equations 7 and 19, by grad-cam's ``GradCAMPlusPlus``.
    """

    name: ClassVar[str] = "grad_cam_plusplus"
    grad_cam_name: ClassVar[str] = "GradCAMPlusPlus"


@dataclass(frozen=True)
class HiResCAM(GradientCAM):
    """HiResCAM: gradient times feature at each place, ``sum_c g_c A_c``: where features speak for or against this box.

    Settings and ``values``: see ``GradientCAM``. The paper has no clipping at 0, so overlays show both signs.

    Source: Draelos & Carin, 2020 (arXiv 2011.08891), by grad-cam's ``HiResCAM``.
    """

    name: ClassVar[str] = "hires_cam"
    grad_cam_name: ClassVar[str] = "HiResCAM"
    is_signed: ClassVar[bool] = True


@dataclass(frozen=True)
class XGradCAM(GradientCAM):
    """XGrad-CAM: each channel weighed by its mean gradient, which counts most where the channel is strong.

    ``sum_c w_c A_c`` with ``w_c = sum(g A) / sum(A)``. If the features of a channel nearly cancel, as those of a SiLU
    may, the divisor is nearly 0. Settings and ``values``: see ``GradientCAM``.

    Source: Fu et al., 2020 (BMVC), by grad-cam's ``XGradCAM``.
    """

    name: ClassVar[str] = "xgrad_cam"
    grad_cam_name: ClassVar[str] = "XGradCAM"


@dataclass(frozen=True)
class GradCAMElementWise(GradientCAM):
    """Gradient times feature at each place, of which only the positive part counts: ``sum_c relu(g_c A_c)``.

    Settings and ``values``: see ``GradientCAM``.

    Source: grad-cam's ``GradCAMElementWise``.
    """

    name: ClassVar[str] = "grad_cam_elementwise"
    grad_cam_name: ClassVar[str] = "GradCAMElementWise"


@dataclass(frozen=True)
class EigenGradCAM(GradientCAM):
    """EigenGrad-CAM: gradient times feature, projected onto its first principal component over the level's places.

    Settings and ``values``: see ``GradientCAM``.

    Source: grad-cam's ``EigenGradCAM``. Differs in two ways. The sign, which grad-cam leaves to chance before it clips,
    is chosen so that the projection goes along with ``sum_c g_c A_c``: positive is evidence for the box. The
    decomposition is that of ``principal_projection``; grad-cam's full SVD needs a matrix of places x places, 12 GB for
    a large photo.
    """

    name: ClassVar[str] = "eigen_grad_cam"
    grad_cam_name: ClassVar[str] = "EigenGradCAM"

    def _level_map(self, formula: Any, level: Tensor, gradient: Tensor) -> Tensor:
        weighted = level.detach() * gradient
        projection, evidence = principal_projection(weighted)[0], weighted[0].sum(0)
        agrees = (projection * (evidence - evidence.mean())).sum() >= 0
        return torch.where(agrees, projection, -projection)


@dataclass(frozen=True)
class FinerCAM(GradientCAM):
    """Finer-CAM: Grad-CAM of what sets the box's class apart from the classes most like it.

    The question of each class k of the detector, asked of this box, gives y_k. With the ``n_similar`` classes whose y
    is nearest to the label's own, y, and the softmax p of all y_k as weights,
    ``sum_k p_k (y - alpha y_k) / sum_k p_k`` is traced back instead of y.

    Args:
        layers, propagate, target: as for ``GradientCAM``; ``values`` too.
        alpha: from 0, how much the other classes count; 0 is Grad-CAM.
        n_similar: with how many classes the label is compared, at least 1.

    Source: Zhang et al., 2025 (CVPR), by grad-cam's ``FinerWeightedTarget`` and ``GradCAM``. Differs in that y are the
    scores of a box in the place of a classifier's logits.
    """

    name: ClassVar[str] = "finer_cam"
    grad_cam_name: ClassVar[str] = "GradCAM"

    alpha: float = 1.0
    n_similar: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha)
        check_count("n_similar", self.n_similar, 1)

    def _scores(self, candidates: Candidates, detections: Detections) -> Tensor:
        labels = candidates.labels.tolist()
        if len(labels) < 2:
            raise ValueError(
                f"finer_cam compares a class with others: it needs two classes or more, the detector has {len(labels)}"
            )
        unknown = sorted(set(detections.labels.tolist()) - set(labels))
        if unknown:
            raise ValueError(f"label must be one of the detector's {len(labels)} classes, got {unknown}")
        compared = grad_cam_class("FinerWeightedTarget", "pytorch_grad_cam.utils.model_targets")
        scores = []
        for box, label in zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True):
            of_class = score_targets([self.target(box, one) for one in labels], candidates)[:, 0]
            own = labels.index(label)
            # in float64: beside a score near 1, float32 rounds those near 0 to one distance
            nearest = (of_class.detach().double() - of_class[own].detach().double()).abs()
            nearest[own] = torch.inf
            similar = nearest.argsort(stable=True)[: min(self.n_similar, len(labels) - 1)].tolist()
            scores.append(compared(own, similar, self.alpha)(of_class))
        return torch.stack(scores)


@dataclass(frozen=True)
class ShapleyCAM(GradientCAM):
    """ShapleyCAM: Grad-CAM whose gradient is corrected by the curvature along the features.

    ``sum_c mean(g_c - (H A)_c / 2) A_c`` with H the second derivatives of y: an estimate of each channel's Shapley
    value to the second order. It needs a network that can be differentiated twice. torchvision's RoIAlign cannot, so
    its two-stage detectors are refused. Settings and ``values``: see ``GradientCAM``.

    Source: Cai, 2025 (arXiv 2501.06261); the formula of grad-cam's ``ShapleyCAM``, whose own code frees the graph after
    the first layer of the first box.
    """

    name: ClassVar[str] = "shapley_cam"
    grad_cam_name: ClassVar[str] = "ShapleyCAM"
    passes: ClassVar[str] = "1 pass for the image, 2 backward passes for each layer a box"

    def _level_maps(self, formula: Any, trace: Trace, score: Tensor) -> list[Tensor]:
        maps = []
        gradients = trace.gradients(score, differentiable=True)
        for level, gradient in zip(trace.levels.values(), gradients, strict=True):
            corrected = gradient.detach() - _curvature(level, gradient) / 2
            maps.append((corrected.mean((2, 3), keepdim=True) * level.detach())[0].sum(0))
        return maps


def _curvature(level: Tensor, gradient: Tensor) -> Tensor:
    """H A, the second derivatives of the score in the direction of the features: (1, C, h, w)."""
    if not gradient.requires_grad:  # a score that is linear in this level
        return torch.zeros_like(gradient)
    try:
        (product,) = torch.autograd.grad(gradient, level, level.detach(), retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"shapley_cam needs a network that can be differentiated twice: {error}") from error
    return torch.zeros_like(gradient) if product is None else product
