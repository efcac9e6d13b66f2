"""What other tools would show: grad-cam's EigenCAM, LayerCAM of one box, and the overlay that Ultralytics writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.adapter import Adapter, Inputs
from detxai.adapters.grad_cam_view import GradCamView
from detxai.adapters.layers import capture, level_names
from detxai.detections import Candidates, Detections
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image, load_image, to_uint8
from detxai.targets import ClassScoreTarget, Target
from detxai.targets.target import score_targets


@dataclass(frozen=True)
class GradCamEigenCAM:
    """``pytorch_grad_cam.EigenCAM`` as it comes: its SVD on the CPU, its own scaling, and no sign rule.

    Args:
        layers: names of the layers; default: the adapter's.
    """

    name: ClassVar[str] = "grad_cam_eigen_cam"
    asks_about_boxes: ClassVar[bool] = False

    layers: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        import pytorch_grad_cam  # noqa: F401  (seconds: not to be counted as the first image's)

    def __call__(self, detector: Adapter, image: Image) -> Explanation:
        from pytorch_grad_cam import EigenCAM

        start = time.perf_counter()
        photo = to_uint8(load_image(image))
        view = GradCamView(detector, image, self.layers)
        with EigenCAM(view, view.target_layers) as cam:
            (map_,) = cam(view.input_tensor, targets=[])
        values = view.to_image(map_)
        cost = Cost(time.perf_counter() - start, forward_passes=1)
        return Explanation(values, photo, self.name, settings_of(self), cost)


@dataclass(frozen=True)
class LayerCAM:
    """LayerCAM of one box: where features are strong and strengthening them would raise its score.

    ``M_l = relu(sum_c relu(dy / dA_c) A_c)`` for each level l, brought to the image and divided by its largest value;
    the map is the largest of the levels at each pixel. One backward pass a detection.

    Args:
        layers: names of the layers; default: the adapter's.
        target: from a detection's box and label to the question asked of it.

    Source: Jiang et al., 2021, LayerCAM (IEEE TIP 30); the levels joined as Ultralytics does.
    """

    name: ClassVar[str] = "layer_cam"
    asks_about_boxes: ClassVar[bool] = True

    layers: Sequence[str] | str | None = None
    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __call__(self, detector: Adapter, image: Image, detections: Detections) -> list[Explanation]:
        start = time.perf_counter()
        if len(detections) == 0:
            return []
        pairs = zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True)
        targets = [self.target(box, label) for box, label in pairs]
        with detector.borrowed():
            seen = _Pass.of(detector, image, self.layers)
            with torch.enable_grad():
                scores = score_targets(targets, seen.candidates)[:, 0]
            maps = [seen.layer_cam(score) for score in scores]
        cost = Cost(time.perf_counter() - start, forward_passes=1)
        settings = settings_of(self)
        return [
            Explanation(map_.cpu().numpy(), seen.inputs.images[0], self.name, settings, cost, detection)
            for map_, detection in zip(maps, detections, strict=True)
        ]


@dataclass(frozen=True)
class UltralyticsLayerCAM:
    """The map behind the overlay of Ultralytics' ``predict(visualize=True)``: one for the whole image.

    The ``LayerCAM`` of each of the highest-scored candidates before suppression, asked for its best class's score;
    the largest of them at each pixel. So it is of no one box, and the objects whose swarm of candidates fills the
    list are all it is of. Re-implemented, because Ultralytics returns no map but writes a picture; a test compares
    the two. It looks at the score where Ultralytics looks at the logit: a positive factor, which the division by
    each level's largest value takes out, unless a score is so high that it rounds to 1 and has no gradient.

    Args:
        layers: names of the layers; default: the adapter's, which are those that Ultralytics takes.
        score_threshold: candidates below it do not count, but the best one always does.
        most: candidates at most, one backward pass each; 16 is Ultralytics' own limit.

    Source: ``ultralytics.utils.plotting.class_activation_map``, ultralytics 8.4.190.
    """

    name: ClassVar[str] = "ultralytics_layer_cam"
    asks_about_boxes: ClassVar[bool] = False

    layers: Sequence[str] | str | None = None
    score_threshold: float = 0.25
    most: int = 16

    def __call__(self, detector: Adapter, image: Image) -> Explanation:
        start = time.perf_counter()
        with detector.borrowed():
            seen = _Pass.of(detector, image, self.layers)
            with torch.enable_grad():
                best = seen.candidates.class_scores[0].amax(-1)
                n = max(1, min(int((best >= self.score_threshold).sum()), self.most))
                scores = best.topk(n).values
            maps = [seen.layer_cam(score) for score in scores]
        cost = Cost(time.perf_counter() - start, forward_passes=1)
        values = torch.stack(maps).amax(0).cpu().numpy()
        return Explanation(values, seen.inputs.images[0], self.name, settings_of(self), cost)


@dataclass(frozen=True, eq=False)
class _Pass:
    """One full pass with its graph: what the layers put out, and what came of it.

    The whole graph, not levels by themselves: on a YOLO the finest level feeds the coarser ones, and the gradient
    with respect to it runs through them too.
    """

    levels: Mapping[str, Tensor]
    candidates: Candidates
    inputs: Inputs

    @classmethod
    def of(cls, detector: Adapter, image: Image, layers: Sequence[str] | str | None) -> _Pass:
        names = detector.default_layers if layers is None else [layers] if isinstance(layers, str) else layers
        clean = detector.prepare(image)
        # a checkpoint's parameters may not require gradients: the graph starts at the pixels
        inputs = replace(clean, tensor=clean.tensor.clone().requires_grad_())
        with torch.enable_grad(), capture(detector.model, names) as outputs:
            candidates = detector.candidates(inputs)
        return cls(level_names(outputs), candidates, inputs)

    def layer_cam(self, score: Tensor) -> Tensor:
        """(H, W) in [0, 1], pixels of the image."""
        levels = list(self.levels.values())
        gradients = torch.autograd.grad(score, levels, retain_graph=True, allow_unused=True, materialize_grads=True)
        on_image = []
        for level, gradient in zip(levels, gradients, strict=True):
            cells = (gradient[0].float().clamp(min=0) * level[0].detach().float()).sum(0).clamp(min=0)
            pixels = self.inputs.geometries[0].map_to_image(cells)
            on_image.append(pixels / pixels.amax().clamp(min=1e-7))
        return torch.stack(on_image).amax(0)
