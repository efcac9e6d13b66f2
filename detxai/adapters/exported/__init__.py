"""Exported detectors as black boxes: ONNX, OpenVINO and TorchScript files."""

from detxai.adapters.exported.detector import SUFFIXES, ExportedAdapter, ExportedNetwork, open_exported
from detxai.adapters.exported.preparation import Preparation

__all__ = ["SUFFIXES", "ExportedAdapter", "ExportedNetwork", "Preparation", "open_exported"]
