"""grad-cam's own AblationCAM, timed."""

from __future__ import annotations

import contextlib
import copy
import io
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from detxai.adapters.detector import Features, Inputs
from detxai.adapters.network import NetworkDetector
from detxai.bench.rows import Row
from detxai.detections import Detections


def time_grad_cam(detector: NetworkDetector, inputs: Inputs, detections: Detections, features: Features, n: int) -> Row:
    """grad-cam's own AblationCAM, on a copy of the model: it can leave one broken."""
    name = "grad-cam's AblationCAM"
    if detector.family != "faster_rcnn":
        return Row(name, float("nan"), note="fails on this model; patched to run, it costs the full pass below")
    from pytorch_grad_cam import AblationCAM as PeerAblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN
    from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
    from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform

    class Sampled(AblationLayerFasterRCNN):
        """Some channels of all, spread over the levels."""

        def __init__(self, n_sampled: int) -> None:
            super().__init__()
            self.n_sampled = n_sampled

        def activations_to_be_ablated(self, activations: Any, ratio_channels_to_ablate: float = 1.0) -> Any:
            step = max(1, len(activations) // self.n_sampled)
            self.indices = np.arange(0, len(activations), step)[: self.n_sampled]
            return self.indices

    target = FasterRCNNBoxScoreTarget(detections.labels.tolist(), list(detections.boxes))
    pixels = torch.from_numpy(inputs.images[0]).permute(2, 0, 1)[None].to(detector.device, detector.dtype) / 255

    def seconds(n_sampled: int) -> float:
        model: nn.Module = copy.deepcopy(detector.model).eval()
        layer = Sampled(n_sampled)
        cam = PeerAblationCAM(model, [model.backbone], fasterrcnn_reshape_transform, ablation_layer=layer, batch_size=1)
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # it draws a bar whether or not anybody looks
            cam(pixels, targets=[target])
        return time.perf_counter() - start

    try:
        rounds = [(seconds(1), seconds(1 + n)) for _ in range(3)]  # the first one warms up
    except (KeyError, IndexError) as error:
        failure = f"{type(error).__name__} {error}"
        return Row(name, float("nan"), note=f"fails: {failure} (it knows five levels of 256 channels only)")
    n_channels = sum(level.shape[1] for level in features.levels.values())
    one, more = (min(times) for times in zip(*rounds))
    each = (more - one) / n
    return Row(name, one + each * (n_channels - 1), sampled=n, note="for the sum of all boxes, fill -1000")
