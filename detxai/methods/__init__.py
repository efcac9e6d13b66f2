"""Explanation methods, one file each."""

from detxai.methods.ablation_cam import AblationCAM
from detxai.methods.d_rise import DRISE
from detxai.methods.eigen_cam import EigenCAM
from detxai.methods.layer_cam import LayerCAM
from detxai.methods.pixel_evidence import PixelEvidence
from detxai.methods.region_shapley import RegionShapley

METHODS = {method.name: method for method in (PixelEvidence, RegionShapley, DRISE, LayerCAM, AblationCAM, EigenCAM)}

__all__ = ["DRISE", "METHODS", "AblationCAM", "EigenCAM", "LayerCAM", "PixelEvidence", "RegionShapley"]
