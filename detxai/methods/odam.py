"""ODAM: where do the features lie that a box's score, or one of its sides, was read from?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.geometry import Geometry
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.methods.box_attributes import Attribute, check_attribute, explain_attributes
from detxai.methods.checks import check_target
from detxai.targets import ClassScoreTarget, Target


@dataclass(frozen=True)
class ODAM:
    """Gradient times feature at each place, of the score or of a side of the box, on the level the box came from.

    ``values = relu(sum_c dY/dA_c A_c)``, element by element, in units of Y, brought to the image. A are the features of
    the level that the box's candidate was read from. Y is the box's score, or the coordinate of one of its sides in
    image pixels; high values then push that side to the right or down. A side that is cut off at the image's edge
    depends on nothing, and its map is flat.

    Args:
        attribute: what is explained. ``"score"``: what ``target`` asks. ``"left"``, ``"top"``, ``"right"`` or
            ``"bottom"``: the coordinate of that side. ``"combined"``: the five maps, each scaled to [0, 1], and the
            largest of them at each pixel.
        layers: names of the layers; default: those that the adapter chooses. While one is traced, the outputs of the
            others stay as they are.
        target: the question about a box's score: a function from its box and label to a target.

    Source: Zhao et al., 2023, ODAM (ICLR), and its released code. Differs in Y: the coordinate of a side where the code
    takes the number regressed, and the box's question where it takes a class score.
    """

    name: ClassVar[str] = "odam"
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
        return explain_attributes(self, detector, image, detections, odam_map)


def odam_map(features: Tensor, gradients: Tensor, geometry: Geometry, box: Tensor) -> Tensor:
    """(h, w) from features and gradients, both (C, h, w)."""
    return (gradients * features).sum(0).clamp(min=0)
