"""Explain object detections: which pixels put this box, with this class, here?"""

from importlib.metadata import version

from detxai import formats, reshape, targets
from detxai.adapters.registry import wrap
from detxai.adapters.sliced import Slicing
from detxai.detections import Candidates, Detections
from detxai.explain import explain
from detxai.explanation import Explanation
from detxai.methods import DRISE, AblationCAM, EigenCAM, LayerCAM, PixelEvidence, RegionShapley
from detxai.pages.showing import show

__version__ = version("detxai")

__all__ = [
    "DRISE",
    "AblationCAM",
    "Candidates",
    "Detections",
    "EigenCAM",
    "Explanation",
    "LayerCAM",
    "PixelEvidence",
    "RegionShapley",
    "Slicing",
    "__version__",
    "explain",
    "formats",
    "reshape",
    "show",
    "targets",
    "wrap",
]
