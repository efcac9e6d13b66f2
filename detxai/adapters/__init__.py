"""Detectors, wrapped: one file per family; whatever differs between detectors lives here and nowhere else."""

from detxai.adapters.detector import Detector
from detxai.adapters.network import NetworkDetector
from detxai.adapters.registry import wrap
from detxai.adapters.views.grad_cam import GradCamView

__all__ = ["Detector", "GradCamView", "NetworkDetector", "wrap"]
