"""Explanation methods, one file each; those of another library in a folder named after it.

A method is a small frozen dataclass of settings, called with ``(detector, image, detections)``; it returns a list with
one explanation for each detection, or with one for the image where it asks no question of a box. Its class attributes:

- ``name``;
- ``asks_about_boxes``;
- ``needs``: ``"answers"`` (any detector will do), ``"network"``, ``"gradients"`` (through that network) or
  ``"attention"`` (of queries);
- ``passes``: its cost in a phrase;
- ``is_signed``: overlays also show negative values, evidence against the box;
- ``of_single_pixels``: neighbouring pixels differ so much that overlays let the strongest few share one colour;
- ``in_rounds``: calls take ``on_round=``, which gets the explanations so far after every round;
- ``needs_file``: the setting that must name a file made for this detector; "every method" leaves it out;
- ``shows``: what its maps show, where that is not evidence.
"""

from typing import Any

from detxai.methods.ablation_cam import AblationCAM
from detxai.methods.attention import Attention
from detxai.methods.d_rise import DRISE
from detxai.methods.eigen_cam import EigenCAM
from detxai.methods.from_captum import CAPTUM_METHODS
from detxai.methods.from_grad_cam import FROM_GRAD_CAM
from detxai.methods.layer_cam import LayerCAM
from detxai.methods.learned.concept_map import ConceptMap
from detxai.methods.learned.l2x import L2X
from detxai.methods.odam import ODAM
from detxai.methods.pixel_evidence import PixelEvidence
from detxai.methods.region_shapley import RegionShapley
from detxai.methods.ssgrad_cam_plusplus import SSGradCAMPlusPlus

METHODS: dict[str, type[Any]] = {
    method.name: method
    for method in (
        PixelEvidence,
        RegionShapley,
        DRISE,
        LayerCAM,
        ODAM,
        SSGradCAMPlusPlus,
        AblationCAM,
        EigenCAM,
        Attention,
        L2X,
        ConceptMap,
        *FROM_GRAD_CAM,
        *CAPTUM_METHODS,
    )
}


def methods_without_file() -> list[str]:
    """The names in ``METHODS`` of those that need no file of their own, such as a trained explainer."""
    return [name for name, kind in METHODS.items() if not hasattr(kind, "needs_file")]


__all__ = [
    "DRISE",
    "L2X",
    "METHODS",
    "ODAM",
    "AblationCAM",
    "Attention",
    "ConceptMap",
    "EigenCAM",
    "LayerCAM",
    "PixelEvidence",
    "RegionShapley",
    "SSGradCAMPlusPlus",
    "methods_without_file",
]
