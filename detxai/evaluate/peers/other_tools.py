"""What other tools would show: grad-cam's EigenCAM, and the overlay that Ultralytics writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from detxai.adapters.detector import Detector
from detxai.adapters.views.grad_cam import GradCamView
from detxai.detections import Detections
from detxai.engine.gradients import Trace
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image, load_image, to_uint8
from detxai.methods.layer_cam import level_maps


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

    def __call__(self, detector: Detector, image: Image, detections: Detections | None = None) -> list[Explanation]:
        from pytorch_grad_cam import EigenCAM

        start = time.perf_counter()
        photo = to_uint8(load_image(image))
        view = GradCamView(detector, image, self.layers)
        with EigenCAM(view, view.target_layers) as cam:
            (map_,) = cam(view.input_tensor, targets=[])
        values = view.to_image(map_)
        cost = Cost(time.perf_counter() - start, forward_passes=1)
        return [Explanation(values, photo, self.name, settings_of(self), cost)]


@dataclass(frozen=True)
class UltralyticsLayerCAM:
    """The map behind the overlay of Ultralytics' ``predict(visualize=True)``: one for the whole image.

    The ``LayerCAM`` of each of the highest-scored candidates before suppression, asked for its best class's score,
    every level divided by its largest value; the largest of all at each pixel. So it is of no one box, and the objects
    whose swarm of candidates fills the list are all it is of. Re-implemented, because Ultralytics returns no map but
    writes a picture; a test compares the two. It looks at the score where Ultralytics looks at the logit: a positive
    factor, which the division by each level's largest value takes out, unless a score is so high that it rounds to 1
    and has no gradient.

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

    def __call__(self, detector: Detector, image: Image, detections: Detections | None = None) -> list[Explanation]:
        start = time.perf_counter()
        with detector.borrowed():
            seen = Trace.from_image(detector, image, self.layers)
            with torch.enable_grad():
                best = seen.candidates.class_scores[0].amax(-1)
                n = max(1, min(int((best >= self.score_threshold).sum()), self.most))
                scores = best.topk(n).values
            maps = torch.cat([level_maps(seen, score) for score in scores])
        cost = Cost(time.perf_counter() - start, forward_passes=1)
        scaled = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-7)
        values = scaled.amax(0).cpu().numpy()
        return [Explanation(values, seen.inputs.images[0], self.name, settings_of(self), cost)]
