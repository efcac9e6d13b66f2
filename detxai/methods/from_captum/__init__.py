"""Captum's methods for one box: its own implementations, imported when they are used, on our detectors' scores."""

from detxai.methods.from_captum.gradients import GradientShap, InputXGradient, IntegratedGradients, Saliency
from detxai.methods.from_captum.hooked import Deconvolution, DeepLift, GuidedBackprop
from detxai.methods.from_captum.occlusion import Occlusion
from detxai.methods.from_captum.region_methods import FeatureAblation, KernelShap, Lime, ShapleySampling
from detxai.methods.from_captum.smooth_grad import SmoothGrad

CAPTUM_METHODS = (
    Saliency,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    GradientShap,
    GuidedBackprop,
    Deconvolution,
    DeepLift,
    Occlusion,
    FeatureAblation,
    Lime,
    KernelShap,
    ShapleySampling,
)

__all__ = ["CAPTUM_METHODS", *(method.__name__ for method in CAPTUM_METHODS)]
