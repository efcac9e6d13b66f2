"""Explanation methods, one file each."""

from detxai.methods.eigen_cam import EigenCAM

METHODS = {method.name: method for method in (EigenCAM,)}

__all__ = ["METHODS", "EigenCAM"]
