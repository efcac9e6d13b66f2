"""Explain object detections: which pixels put this box, with this class, here?

What this package names is imported when it is first used, so that ``import detxai`` and ``detxai --help`` are quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detxai import callbacks, coco, evaluate, formats, metrics, reshape, scenes, targets
    from detxai.adapters.registry import wrap
    from detxai.adapters.sliced import Slicing
    from detxai.detections import Candidates, Detections
    from detxai.explain import explain
    from detxai.explanation import Explanation
    from detxai.methods import DRISE, AblationCAM, EigenCAM, LayerCAM, PixelEvidence, RegionShapley
    from detxai.pages.showing import show
    from detxai.pages.slider import slider

    __version__: str

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
    "callbacks",
    "coco",
    "evaluate",
    "explain",
    "formats",
    "metrics",
    "reshape",
    "scenes",
    "show",
    "slider",
    "targets",
    "wrap",
]

_MODULES = {
    "AblationCAM": "detxai.methods",
    "Candidates": "detxai.detections",
    "DRISE": "detxai.methods",
    "Detections": "detxai.detections",
    "EigenCAM": "detxai.methods",
    "Explanation": "detxai.explanation",
    "LayerCAM": "detxai.methods",
    "PixelEvidence": "detxai.methods",
    "RegionShapley": "detxai.methods",
    "Slicing": "detxai.adapters.sliced",
    "explain": "detxai.explain",
    "show": "detxai.pages.showing",
    "slider": "detxai.pages.slider",
    "wrap": "detxai.adapters.registry",
}


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first used (PEP 562): a public name, or a module of detxai."""
    value: Any
    if name == "__version__":
        value = importlib.import_module("importlib.metadata").version("detxai")
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        value = _module(name)
    globals()[name] = value
    return value


def _module(name: str) -> ModuleType:
    missing = AttributeError(f"module 'detxai' has no attribute {name!r}")
    if name.startswith("_"):  # Python itself asks for some of these
        raise missing
    try:
        return importlib.import_module(f"detxai.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"detxai.{name}":
            raise missing from None
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # after importing detxai/explain.py, Python would put that module in the place of the function
        super().__setattr__(name, value.explain if name == "explain" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
