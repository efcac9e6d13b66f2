"""The small YOLO: its architecture, and the loader of weights that live outside the package (AGPL-3.0)."""

import os
from pathlib import Path
from typing import Any, Final

from detxai.scenes.detectors.weights_file import read_weights
from detxai.scenes.world import CLASS_NAMES, DEFAULT_SIZE

YOLO_ARCHITECTURE: Final = "yolo11n.yaml"
"""A file of Ultralytics' own distribution: 2.6 M parameters for ten classes."""


_RELATIVE: Final = Path("examples", "scenes_yolo", "scenes_yolo.safetensors")


def import_ultralytics() -> Any:
    """The class ``ultralytics.YOLO``.

    Raises:
        ImportError: with the pip line.
    """
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    try:
        from ultralytics import YOLO
    except ImportError as error:
        raise ImportError('scenes-yolo needs ultralytics (AGPL-3.0): pip install "detxai[yolo]"') from error
    return YOLO


def find_yolo_weights() -> Path | None:
    """The first of the places where the weights may lie that has them; None when none does.

    ``DETXAI_SCENES_YOLO`` names the file; else ``examples/scenes_yolo/`` of a source checkout or the current folder.
    """
    named = os.environ.get("DETXAI_SCENES_YOLO")
    checkout = Path(__file__).resolve().parents[3]
    places = [Path(named)] if named else [root / _RELATIVE for root in (checkout, Path.cwd())]
    return next((place for place in places if place.is_file()), None)


def load_yolo(path: str | Path | None = None) -> Any:
    """The trained YOLO as an ``ultralytics.YOLO`` in float32 on the CPU, ready for ``predict``.

    Args:
        path: a ``.safetensors`` file of its weights; None looks where ``find_yolo_weights`` does.

    Raises:
        ImportError: ultralytics is not installed; the message has the pip line.
        FileNotFoundError: the weights are absent; the message says how to get them.
    """
    yolo_class = import_ultralytics()
    file = find_yolo_weights() if path is None else Path(path)
    if file is None or not file.is_file():
        raise FileNotFoundError(
            f"no YOLO weights at {file or _RELATIVE}: they are AGPL-3.0 and not part of the package. Take "
            "examples/scenes_yolo/ from the source repository and set DETXAI_SCENES_YOLO to the .safetensors file "
            "in it, or train them: python -m detxai.scenes.train --model yolo --out FOLDER"
        )
    yolo = yolo_class(YOLO_ARCHITECTURE, task="detect")
    network = _build_network()
    network.load_state_dict(read_weights(file))
    yolo.model = network
    yolo.overrides["imgsz"] = DEFAULT_SIZE  # else ``predict`` would enlarge a scene to 640 pixels
    return yolo


def _build_network() -> Any:
    from ultralytics.cfg import DEFAULT_CFG_DICT
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    architecture = {**yaml_model_load(YOLO_ARCHITECTURE), "nc": len(CLASS_NAMES)}
    network = DetectionModel(architecture, verbose=False).eval()
    network.names = dict(enumerate(CLASS_NAMES))
    network.args = {**DEFAULT_CFG_DICT, "imgsz": DEFAULT_SIZE}
    network.task = "detect"
    return network
