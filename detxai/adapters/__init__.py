"""Detectors, wrapped: one file per family; whatever differs between detectors lives here and nowhere else."""

from detxai.adapters.adapter import Adapter
from detxai.adapters.grad_cam_view import GradCamView
from detxai.adapters.registry import wrap

__all__ = ["Adapter", "GradCamView", "wrap"]
