"""Explanation methods, one file each; those that are another library's in a folder named after it.

Every class says of itself, as class attributes: ``name``; ``asks_about_boxes``; ``needs``, which is ``"answers"`` (any
detector will do), ``"network"``, ``"gradients"`` (through that network) or ``"attention"`` (of queries); and
``passes``, its cost in a phrase. Where ``is_signed`` is True, overlays show also what speaks against the box; where
``of_single_pixels`` is, neighbouring pixels differ so much that overlays let the strongest few share one colour; one
that ``shows`` something else than evidence says what.
"""

from typing import Any

from detxai.methods.ablation_cam import AblationCAM
from detxai.methods.attention import Attention
from detxai.methods.d_rise import DRISE
from detxai.methods.eigen_cam import EigenCAM
from detxai.methods.from_captum import CAPTUM_METHODS
from detxai.methods.from_grad_cam import FROM_GRAD_CAM
from detxai.methods.layer_cam import LayerCAM
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
        *FROM_GRAD_CAM,
        *CAPTUM_METHODS,
    )
}

__all__ = [
    "DRISE",
    "METHODS",
    "ODAM",
    "AblationCAM",
    "Attention",
    "EigenCAM",
    "LayerCAM",
    "PixelEvidence",
    "RegionShapley",
    "SSGradCAMPlusPlus",
]
