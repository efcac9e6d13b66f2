"""Where pixel evidence starts: what a box itself, and one gradient, say before anything is hidden."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Canvas
from detxai.geometry import box_gaussians
from detxai.images import Image
from detxai.methods.layer_cam import LayerCAM
from detxai.methods.region_shapley import boxes_on
from detxai.targets import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Start:
    """What is known of T boxes before any region is hidden.

    Attributes:
        shapes: (T, h, w) over the canvas, each summing to 1.
        names: of its parts.
        n_passes: that they took.
    """

    shapes: Tensor
    names: list[str]
    n_passes: int

    @classmethod
    def of(
        cls,
        detector: Detector,
        image: Image,
        canvas: Canvas,
        detections: Detections,
        target: Callable[[Any, int], Target],
    ) -> Start:
        """A Gaussian over each box and, where the detector is a network, LayerCAM."""
        parts, names, n_passes = [box_gaussians(canvas.size, boxes_on(canvas, detections))], ["box_centre"], 0
        if detector.network is not None:
            try:
                found = LayerCAM(target=target)(detector, image, detections)
            except ValueError as error:  # a target of the user's own need not have gradients
                log.info("the start has no LayerCAM: %s", error)
            else:
                values = torch.stack([torch.from_numpy(one.values) for one in found]).to(canvas.clean.tensor.device)
                parts.append(canvas.from_image(values).clamp(min=0))
                names.append("layer_cam")
                n_passes = found[0].cost.forward_passes
        sums = [part.sum((1, 2), keepdim=True) for part in parts]
        shares = [torch.where(total > 0, part / total, parts[0] / sums[0]) for part, total in zip(parts, sums)]
        return cls(torch.stack(shares).mean(0), names, n_passes)
