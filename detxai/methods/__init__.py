"""Explanation methods, one file each."""

from detxai.methods.ablation_cam import AblationCAM
from detxai.methods.eigen_cam import EigenCAM

METHODS = {method.name: method for method in (AblationCAM, EigenCAM)}

__all__ = ["METHODS", "AblationCAM", "EigenCAM"]
