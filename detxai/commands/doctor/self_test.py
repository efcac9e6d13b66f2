"""A bundled detector finds an object in a generated scene, and a map of it lies where the cause is known to be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detxai.adapters.network import module_of
from detxai.adapters.registry import wrap
from detxai.explain import explain
from detxai.scenes.scene import Scene, generate
from detxai.scenes.world import CLASS_NAMES

MODEL, METHOD, SEED = "scenes-frcnn", "layer_cam", 600
CONCENTRATION = 4  # times more of the map than of the image lies on the cause; 1 is chance; six seeds: 9 to 36


@dataclass(frozen=True)
class SelfTest:
    """How it went on one device.

    Attributes:
        device: such as ``cpu``.
        passed: whether the object was found, and the map lies on its cause.
        seconds: what loading, detecting and explaining took.
        reason: what is wrong; empty where it passed.
    """

    device: str
    passed: bool
    seconds: float
    reason: str = ""


def self_test(device: str) -> SelfTest:
    """Detect and explain one object on ``device``; whatever is raised is the reason for failing."""
    start = time.perf_counter()
    try:
        wrong = _what_is_wrong(device)
    except Exception as error:  # a broken installation may raise anything
        wrong = f"{type(error).__name__}: {error}"
    return SelfTest(device, not wrong, round(time.perf_counter() - start, 2), wrong)


def devices() -> Sequence[str]:
    """The kinds of device that torch can use here."""
    others: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    return ["cpu", *(name for name, is_available in others.items() if is_available())]


def _what_is_wrong(device: str) -> str:
    scene = generate(SEED, "local")
    detector = wrap(MODEL)
    module_of(detector).to(torch.device(device))
    detections = detector.detect(scene.image, score_threshold=0.5)
    name = CLASS_NAMES[int(scene.labels[0])]
    found = [place for place in range(len(detections)) if detections.name(place) == name]
    if not found:
        return f"{MODEL} does not find the {name} in a scene that it knows"
    (explanation,) = explain(detector, scene.image, METHOD, detections=detections[found[0]])
    share = concentration(explanation.heatmap, scene)
    if not share >= CONCENTRATION:  # also where it is NaN
        return f"the map lies {share:.1f} times as much on the cause as by chance, expected {CONCENTRATION} or more"
    return ""


def concentration(heatmap: np.ndarray, scene: Scene) -> float:
    """How many times more of a map lies on the first object's cause than of the image: 1 is chance."""
    evidence = scene.evidence[0]
    total = float(heatmap.sum())
    return float(heatmap[evidence].sum()) / total / float(evidence.mean()) if total else 0.0
