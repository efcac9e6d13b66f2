"""SSGrad-CAM++: channels weighed as in Grad-CAM++ by the gradients in the box, and kept where they count for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.geometry import Geometry, cell_size
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.methods.box_attributes import Attribute, check_attribute, explain_attributes
from detxai.methods.checks import check_target
from detxai.targets import ClassScoreTarget, Target


@dataclass(frozen=True)
class SSGradCAMPlusPlus:
    """Grad-CAM++ restricted to places that this box's score reacts to.

    ``values = relu(sum_c w_c S_c A_c)`` over the features A of the level that the box came from, brought to the image:

    - ``S_c = |g_c| / max |g_c|``, the *space map* of the channel, from the gradient g of Y;
    - ``w_c = sum(alpha_c relu(g_c))``, as in Grad-CAM++;
    - ``alpha_c = g_c^2 / (2 g_c^2 + sum(M A_c) g_c^3)`` for places in the box with a gradient, 0 for all others: M is
      1 in the box and 0 elsewhere, so that other objects that light up the channel do not take part.

    The formula was made for features from a ReLU. Features from a SiLU may have a negative sum in the box. The divisor
    of alpha can then come close to 0, and one channel dominates the map.

    Args:
        attribute: what is explained, as in ``odam``. ``"score"``: what ``target`` asks. ``"left"``, ``"top"``,
            ``"right"`` or ``"bottom"``: the coordinate of that side in image pixels. ``"combined"``: the five maps,
            each scaled to [0, 1], and the largest of them at each pixel.
        layers: names of the layers; default: those that the adapter chooses. While one is traced, the outputs of the
            others stay as they are.
        target: the question about a box's score: a function from its box and label to a target.

    Source: Yamauchi, 2024, SSGrad-CAM++ (CVPR workshops), and Yamauchi & Ishikawa, 2022, SSGrad-CAM (ICIP), for S and
    the product with it; formulas as re-implementations with equation numbers have them, not read in the papers. These
    divide by ``2 M g^2`` and a small number instead: outside the box alpha then says more of that number than of the
    gradient. Differs also from the replay of Chen et al., 2025 (VPS), which multiplies S into the weights, where its
    places are summed away.
    """

    name: ClassVar[str] = "ssgrad_cam_plusplus"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "gradients"
    passes: ClassVar[str] = "1 pass for the image, 1 backward pass a box (5 where attribute is combined)"

    attribute: Attribute = "score"
    layers: Sequence[str] | str | None = None
    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        check_attribute(self.attribute)
        check_target(self.target)

    @in_full_precision
    @on_best_slice
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection; ``details["levels"]`` names the level of each attribute.

        Raises:
            ValueError: a label is wrong, or the target or the network has no gradients.
            LookupError: a layer is unknown.
            TypeError: the detector is a plain function, without a network.
        """
        return explain_attributes(self, detector, image, detections, ssgrad_cam_plusplus_map)


def ssgrad_cam_plusplus_map(features: Tensor, gradients: Tensor, geometry: Geometry, box: Tensor) -> Tensor:
    """(h, w) from features and gradients, both (C, h, w); the box (4,) xyxy in pixels of the image."""
    in_box = cells_in_box(geometry, box, (features.shape[1], features.shape[2])).to(features.device)
    peaks = gradients.abs().amax((1, 2), keepdim=True)
    space = gradients.abs() / torch.where(peaks > 0, peaks, 1)
    total = (features * in_box).sum((1, 2), keepdim=True)
    divisor = 2 + total * gradients  # alpha's, with g^2 cancelled: squares of small gradients would underflow
    counts = in_box & (gradients > 0) & (divisor != 0)
    weights = torch.where(counts, gradients / torch.where(counts, divisor, 1), 0).sum((1, 2), keepdim=True)
    return (weights * space * features).sum(0).clamp(min=0)


def cells_in_box(geometry: Geometry, box: Tensor, n_cells: tuple[int, int]) -> Tensor:
    """(h, w) bool: the cells of a grid over the model's input that lie in the box; the nearest where it is too small.

    >>> cells_in_box(Geometry((8, 8), (8, 8), (8, 8)), torch.tensor([0.0, 4.0, 8.0, 6.0]), (4, 4)).int()
    tensor([[0, 0, 0, 0],
            [0, 0, 0, 0],
            [1, 1, 1, 1],
            [0, 0, 0, 0]], dtype=torch.int32)
    """
    x1, y1, x2, y2 = geometry.boxes_to_input(box.float().cpu()).tolist()
    axes = []
    for axis, (low, high) in enumerate(((y1, y2), (x1, x2))):
        size = cell_size(geometry.input_size[axis], n_cells[axis])
        places = (torch.arange(n_cells[axis]) + geometry.cell_centre) * size
        inside = (places >= low) & (places <= high)
        if not bool(inside.any()):
            inside[(places - (low + high) / 2).abs().argmin()] = True
        axes.append(inside)
    return axes[0][:, None] & axes[1]
