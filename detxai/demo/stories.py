"""What one detector says of one scene, and every method's map of it, measured against the known evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from detxai.adapters.attention import has_attention
from detxai.adapters.detector import Detector
from detxai.demo.scene_pictures import map_picture
from detxai.detections import Detections
from detxai.explain import explain
from detxai.explanation import Explanation
from detxai.geometry import box_iou
from detxai.methods import METHODS
from detxai.pages.demo_page import Panel, Story
from detxai.scenes.scene import Scene, erase
from detxai.scenes.world import CLASS_NAMES, Kind

NEAR = 6  # pixels around the evidence that count as on it: half a cell of the features the maps are made of
SAME_OBJECT = 0.5  # IoU from which a detection is of the object
# detections are kept down to these scores: with the evidence, and where it is gone
SCORE_THRESHOLD, ERASED_SCORE_THRESHOLD = 0.05, 0.01
Methods = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class DemoRow:
    """One explanation, measured against the known evidence.

    Attributes:
        kind, detector, detection, method: what was explained, by what.
        score: of the detection; ``score_erased``: best score of that class at that place once the evidence is erased.
        peak_on_evidence: the map is highest on the evidence, or within six pixels of it.
        heat_on_evidence: share of the map's positive sum there; ``area``: share of the picture there, which is what a
            map that knows nothing would score.
        seconds: wall time of the method for this scene.
    """

    kind: Kind
    detector: str
    detection: str
    score: float
    score_erased: float
    method: str
    peak_on_evidence: bool
    heat_on_evidence: float
    area: float
    seconds: float


def tell_story(scene: Scene, name: str, detector: Detector, methods: Methods) -> tuple[Story, list[DemoRow]]:
    """What one detector says of one scene, and a row for each method's map of it.

    Args:
        scene: the scene; its largest object that has evidence is explained.
        name: of the detector.
        detector: the detector.
        methods: name -> settings; where the detector has queries, ``attention`` is shown too.
    """
    index = main_object(scene)
    label = CLASS_NAMES[scene.labels[index]]
    detection = detection_of(scene, index, detector.detect(scene.image, SCORE_THRESHOLD))
    if detection is None:
        return Story(name, f"did not find the {label}", ()), []
    after = detection_of(scene, index, detector.detect(erase(scene, index), ERASED_SCORE_THRESHOLD))
    score, score_erased = float(detection.scores[0]), float(after.scores[0]) if after is not None else 0.0
    near = grown(scene.evidence[index])
    panels, rows = [], []
    for method, explanation in _explanations(detector, scene, detection, methods):
        heat, peak = on_evidence(explanation, near)
        row = DemoRow(
            kind=scene.kind,
            detector=name,
            detection=label,
            score=score,
            score_erased=score_erased,
            method=method,
            peak_on_evidence=peak,
            heat_on_evidence=heat,
            area=float(near.mean()),
            seconds=explanation.cost.seconds,
        )
        rows.append(row)
        note = f"{heat:.0%} of its heat on the evidence, {row.area:.0%} by chance; "
        passes = explanation.cost.forward_passes
        note += f"{passes} pass{'es' if passes != 1 else ''}, {row.seconds:.1f} s"
        panels.append(Panel(method, map_picture(explanation, detection.boxes[0].tolist()), note, peak))
    said = f"finds {label} with score {score:.2f}; without the evidence {score_erased:.2f}"
    return Story(name, said, tuple(panels)), rows


def _explanations(
    detector: Detector, scene: Scene, detection: Detections, methods: Methods
) -> Iterator[tuple[str, Explanation]]:
    of_queries: dict[str, dict[str, Any]] = {"attention": {}} if has_attention(detector) else {}
    for method, settings in {**methods, **of_queries}.items():
        if "progress" in getattr(METHODS[method], "__dataclass_fields__", {}):
            settings = {**settings, "progress": False}
        yield method, explain(detector, scene.image, method, detection, **settings)[0]


def main_object(scene: Scene) -> int:
    """The largest object that has evidence."""
    sizes = [
        int(mask.sum()) if rule != "none" else 0 for mask, rule in zip(scene.silhouettes, scene.rules, strict=True)
    ]
    return int(np.argmax(sizes))


def detection_of(scene: Scene, index: int, found: Detections) -> Detections | None:
    """The best detection of an object: its class name and an IoU of at least one half; None when there is none."""
    name = CLASS_NAMES[scene.labels[index]]
    found = found.to("cpu")
    iou = box_iou(found.boxes.new_tensor(scene.boxes[index]), found.boxes)
    right = [place for place in range(len(found)) if found.name(place) == name and float(iou[place]) >= SAME_OBJECT]
    return found[max(right, key=lambda place: float(found.scores[place]))] if right else None


def on_evidence(explanation: Explanation, near: npt.NDArray[np.bool_]) -> tuple[float, bool]:
    """The share of a map's heat on the evidence, and whether its peak lies there; 0 and False for an empty map."""
    heat = explanation.heatmap
    if heat.max() <= 0:
        return 0.0, False
    return float(heat[near].sum() / heat.sum()), bool(near[np.unravel_index(heat.argmax(), heat.shape)])


def grown(mask: npt.NDArray[np.bool_], radius: int = NEAR) -> npt.NDArray[np.bool_]:
    """A mask (H, W) with all pixels within ``radius`` of it."""
    return np.asarray(distance_transform_edt(~mask) <= radius)
