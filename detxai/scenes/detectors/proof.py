"""Measure, on scenes a detector never saw, whether the planted evidence is what it decides by."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from detxai.scenes.detectors.detecting import Detect, Found, score_times_iou
from detxai.scenes.scene import Scene, erase, erase_elsewhere, generate
from detxai.scenes.training.dataset import HELD_OUT_SEED
from detxai.scenes.world import CLASS_NAMES, KIND_CLASSES, KINDS, Kind

AP50_GOAL: Final = 0.90
ERASED_GOAL: Final = 0.90
ELSEWHERE_GOAL: Final = 0.05
DETECTED_SCORE: Final = 0.3


@dataclass(frozen=True)
class KindProof:
    """The figures of one scene kind.

    Attributes:
        n_scenes, n_objects: scenes, and labelled objects in them.
        n_tested: objects that have evidence and were detected (IoU >= 0.5, score >= 0.3).
        ap50: average precision at IoU 0.5 over the classes of the kind (COCOeval), in [0, 1].
        erased: fraction of the tested whose score x IoU falls by half or more without the evidence.
        elsewhere: the same when as many pixels elsewhere are painted flat.
        single_marks: the same when one mark of two is erased, over ``n_pairs`` marks; None where objects have one mark.
    """

    kind: Kind
    n_scenes: int
    n_objects: int
    n_tested: int
    ap50: float
    erased: float
    elsewhere: float
    n_pairs: int = 0
    single_marks: float | None = None
    goal_met: bool = field(init=False)

    def __post_init__(self) -> None:
        met = self.ap50 >= AP50_GOAL and self.erased >= ERASED_GOAL and self.elsewhere <= ELSEWHERE_GOAL
        object.__setattr__(self, "goal_met", bool(met and self.n_tested))


def prove_kind(detect: Detect, kind: Kind, n_scenes: int = 200, seed: int = HELD_OUT_SEED) -> KindProof:
    """Measure one kind on the scenes of ``seed``, ``seed + 1``, ..."""
    scenes = [generate(seed + number, kind) for number in range(n_scenes)]
    found = detect([scene.image for scene in scenes])
    tested = _tested(scenes, found)
    erased = _shares(detect, [(scene, i, before, erase(scene, i)) for scene, i, before in tested])
    elsewhere = _shares(detect, [(scene, i, before, erase_elsewhere(scene, i)[0]) for scene, i, before in tested])
    pairs = [
        (scene, index, before, erase(scene, index, part))
        for scene, index, before in tested
        if len(scene.evidence_parts[index]) > 1
        for part in range(len(scene.evidence_parts[index]))
    ]
    return KindProof(
        kind=kind,
        n_scenes=n_scenes,
        n_objects=sum(len(scene) for scene in scenes),
        n_tested=len(tested),
        ap50=average_precision(scenes, found, KIND_CLASSES[kind]),
        erased=erased,
        elsewhere=elsewhere,
        n_pairs=len(pairs),
        single_marks=_shares(detect, pairs) if pairs else None,
    )


def prove(detect: Detect, n_scenes: int = 200, seed: int = HELD_OUT_SEED) -> dict[str, Any]:
    """Measure every kind; returns JSON-ready figures with ``benchmark_kinds``, the kinds that reach every goal."""
    proofs = [prove_kind(detect, kind, n_scenes, seed) for kind in KINDS]
    return {
        "seeds": [seed, seed + n_scenes - 1],
        "goals": {"ap50": AP50_GOAL, "erased": ERASED_GOAL, "elsewhere": ELSEWHERE_GOAL},
        "kinds": {proof.kind: asdict(proof) for proof in proofs},
        "benchmark_kinds": [proof.kind for proof in proofs if proof.goal_met],
    }


def quick_figures(detect: Detect, kind: Kind, n_scenes: int, seed: int = HELD_OUT_SEED) -> dict[str, float]:
    """A rough look at one kind that needs no pycocotools, for the end of a training.

    Returns:
        ``found``: the fraction of objects detected; ``extra``: detections that are no object's, per scene; ``erased``
        and ``elsewhere`` as in ``KindProof``.
    """
    scenes = [generate(seed + number, kind) for number in range(n_scenes)]
    results = detect([scene.image for scene in scenes])
    n_found = sum(
        _detected(found, scene, index) is not None
        for scene, found in zip(scenes, results, strict=True)
        for index in range(len(scene))
    )
    n_answers = sum(int((found.scores >= DETECTED_SCORE).sum()) for found in results)
    tested = _tested(scenes, results)
    return {
        "found": n_found / sum(len(scene) for scene in scenes),
        "extra": (n_answers - n_found) / n_scenes,
        "erased": _shares(detect, [(scene, i, before, erase(scene, i)) for scene, i, before in tested]),
        "elsewhere": _shares(detect, [(scene, i, before, erase_elsewhere(scene, i)[0]) for scene, i, before in tested]),
    }


def average_precision(scenes: Sequence[Scene], found: Sequence[Found], labels: Sequence[int]) -> float:
    """AP at IoU 0.5 over these labels by pycocotools' COCOeval, in [0, 1]; NaN when no scene has one of them.

    Raises:
        ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("average precision needs pycocotools: pip install pycocotools") from error
    truth, results = _coco_records(scenes, found)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # COCO prints its progress
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        if not results:
            return 0.0
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.catIds = list(labels)
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean()) if (precision > -1).any() else float("nan")


def _coco_records(scenes: Sequence[Scene], found: Sequence[Found]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (scene, result) in enumerate(zip(scenes, found, strict=True), start=1):
        for label, box in zip(scene.labels, scene.boxes, strict=True):
            left, top, right, bottom = (float(value) for value in box)
            size = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            identity = len(annotations) + 1
            annotations.append({"id": identity, "image_id": number, "category_id": int(label), "iscrowd": 0, **size})
        for box, score, label in zip(result.boxes, result.scores, result.labels, strict=True):
            left, top, right, bottom = (float(value) for value in box)
            corner = [left, top, right - left, bottom - top]
            results.append({"image_id": number, "category_id": int(label), "bbox": corner, "score": float(score)})
    images = [{"id": number} for number in range(1, len(scenes) + 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def _tested(scenes: Sequence[Scene], results: Sequence[Found]) -> list[tuple[Scene, int, float]]:
    """Scene, number and score x IoU of the objects that have evidence and were detected."""
    return [
        (scene, index, before)
        for scene, found in zip(scenes, results, strict=True)
        for index in range(len(scene))
        if scene.rules[index] != "none" and (before := _detected(found, scene, index)) is not None
    ]


def _detected(found: Found, scene: Scene, index: int) -> float | None:
    """Score x IoU of the object when it was found at all, else None."""
    value, iou = score_times_iou(found, scene.boxes[index], int(scene.labels[index]))
    return value if iou >= 0.5 and value / iou >= DETECTED_SCORE else None


def _shares(detect: Detect, cases: Sequence[tuple[Scene, int, float, Any]]) -> float:
    """The fraction of cases in which the changed picture halves the score x IoU of the object."""
    if not cases:
        return float("nan")
    after = detect([image for _, _, _, image in cases])
    halved = 0
    for (scene, index, before, _), found in zip(cases, after, strict=True):
        value, _ = score_times_iou(found, scene.boxes[index], int(scene.labels[index]))
        halved += value <= before / 2
    return halved / len(cases)
