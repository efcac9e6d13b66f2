"""``detxai --version``: the versions that a bug report needs, read without importing anything heavy."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

ALWAYS = ("torch", "torchvision", "numpy")
IF_INSTALLED = ("ultralytics", "transformers", "captum", "grad-cam", "onnxruntime", "openvino", "sahi", "lightning")


def versions() -> dict[str, str]:
    """Name -> version, of detxai, Python and the packages whose versions matter most."""
    found = {"detxai": version("detxai"), "Python": platform.python_version()}
    for name in (*ALWAYS, *IF_INSTALLED):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name in ALWAYS:
                found[name] = "missing"
    return found


class PrintVersions(argparse.Action):
    """``--version``: prints and exits, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("\n".join(f"{name} {number}" for name, number in versions().items()))
        parser.exit()
