"""Explanation methods, one file each."""

from detxai.methods.ablation_cam import AblationCAM
from detxai.methods.d_rise import DRISE
from detxai.methods.eigen_cam import EigenCAM
from detxai.methods.layer_cam import LayerCAM

METHODS = {method.name: method for method in (AblationCAM, DRISE, EigenCAM, LayerCAM)}

__all__ = ["DRISE", "METHODS", "AblationCAM", "EigenCAM", "LayerCAM"]
