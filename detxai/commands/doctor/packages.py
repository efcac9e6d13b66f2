"""What detxai's own metadata asks for, and what of it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = {  # what each is for
    "app": "detxai app, the web page (from Python 3.11)",
    "yolo": "ultralytics' YOLO and RT-DETR, and watching their trainings",
    "tables": "detxai coco and detxai evaluate, which write Parquet files",
    "lightning": "watching a Lightning training",
    "superpixels": "regions that follow the edges in an image",
    "captum": "Captum's methods: integrated gradients, occlusion, LIME, SHAP and others",
    "onnx": "exported .onnx files as detectors",
    "openvino": "exported OpenVINO files as detectors",
    "transformers": "transformers' DETR, RT-DETR, YOLOS and relatives",
    "rfdetr": "rfdetr's own models",
    "ray": "detxai coco --engine ray, on several machines",
    "sahi": "sahi's detection models",
    "notebook": "detxai.slider, which moves through explanations in a notebook",
    "concepts": "detxai concepts find, which clusters what a detector looks at",
    "fiftyone": "detxai coco export --to fiftyone",
    "datasets": "detxai coco export --to datasets",
    "supervision": "detxai coco export --to supervision",
    "tensorboard": "detxai coco export --to tensorboard",
    "wandb": "detxai coco export --to wandb",
    "completion": "detxai completion: commands and options completed by the shell",
}
COLLECTIONS = ("all", "dev", "docs")  # extras of extras
SAME_MODULE = {  # either package brings the module that detxai imports
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
State = Literal["ok", "missing", "too old"]


@dataclass(frozen=True)
class Package:
    """One requirement, and what is installed of it.

    Attributes:
        name: as on PyPI.
        wanted: the versions that detxai accepts, such as ``>=2.6``; empty: any.
        installed: the installed version; None: none.
        state: ``"too old"`` is every installed version that is not wanted.
    """

    name: str
    wanted: str
    installed: str | None
    state: State


def required() -> list[Package]:
    """The packages that detxai always needs."""
    return [_looked_up(requirement) for requirement in _requirements() if requirement.marker is None]


def by_extra() -> dict[str, list[Package]]:
    """Extra -> the packages that it installs."""
    found: dict[str, list[Package]] = {name: [] for name in EXTRAS}
    for requirement in _requirements():
        for extra in found:
            marker = requirement.marker
            if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                found[extra].append(_looked_up(requirement))
    return found


def installed_version(name: str) -> str | None:
    for candidate in (name, *SAME_MODULE.get(canonicalize_name(name), ())):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    return None


def _requirements() -> Iterator[Requirement]:
    return map(Requirement, requires("detxai") or ())


def _looked_up(requirement: Requirement) -> Package:
    installed = installed_version(requirement.name)
    state: State = "ok"
    if installed is None:
        state = "missing"
    elif not requirement.specifier.contains(installed, prereleases=True):
        state = "too old"
    return Package(requirement.name, str(requirement.specifier), installed, state)
