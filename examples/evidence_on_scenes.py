"""Does a map find the cause? Any methods on scenes whose evidence is planted and known.

    python examples/evidence_on_scenes.py [--methods A,B] [--n-scenes 10] [--json FILE]

For each bundled detector, kind of scene and method, over the detected objects that have evidence:

- AUC: the area under the ROC curve of the map against the evidence (0.5 is chance, 1 is perfect);
- times chance: the share of the map's positive sum on the evidence, over the share that a flat map has there;
- peak, near: how often the brightest pixel lies on the evidence, and within four pixels of it;
- passes: what the method took.

``the_box`` stands for a map of the box itself, which loses where the cause lies outside. ``ablation_cam_mean`` is
Ablation-CAM with a channel's mean in its place instead of zero.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

import detxai
from detxai.geometry import box_iou
from detxai.metrics.inputs.roc_area import roc_area
from detxai.scenes import CLASS_NAMES, KINDS, Kind, generate

MEASURES = ("AUC", "times chance", "peak", "near", "passes")
NEAR = 4  # pixels
Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def times_chance(values: Values, mask: Mask) -> float:
    positive = np.maximum(values, 0)
    total = float(positive.sum())
    return float(positive[mask].sum() / total / mask.mean()) if total > 0 else 0.0


def peak_on(values: Values, mask: Mask) -> float:
    """The share of the brightest pixels, of which there may be several, that lie on the mask."""
    return float(mask[values == values.max()].mean())


def measured(values: Values, mask: Mask, passes: int) -> tuple[float, ...]:
    side = 2 * NEAR + 1
    near = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)
    area = float(roc_area(torch.from_numpy(values)[None], torch.from_numpy(mask)[None]))
    return area, times_chance(values, mask), peak_on(values, mask), peak_on(values, near), float(passes)


def objects(detector: Any, kind: Kind, seeds: range, most: int) -> Iterator[tuple[Any, detxai.Detections, Mask]]:
    """(image, box, evidence) of each scene's objects that have evidence and are found with their class."""
    for seed in seeds:
        scene = generate(seed, kind)
        found = detector.detect(scene.image, 0.3)
        n_found = 0
        for i in range(len(scene)):
            right = [j for j in range(len(found)) if found.name(j) == CLASS_NAMES[scene.labels[i]]]
            if not right or not scene.evidence[i].any():
                continue
            iou = box_iou(torch.as_tensor(scene.boxes[i], dtype=torch.float32), found.boxes[right])
            if float(iou.max()) >= 0.5 and n_found < most:
                yield scene.image, found[right[int(iou.argmax())]], scene.evidence[i]
                n_found += 1


def map_of(method: str, detector: Any, image: Any, box: detxai.Detections) -> tuple[Values, int]:
    if method == "the_box":
        values = np.zeros(image.shape[:2], dtype=np.float32)
        x1, y1, x2, y2 = (round(side) for side in box.boxes[0].tolist())
        values[y1:y2, x1:x2] = 1
        return values, 0
    settings: dict[str, Any] = {"fill": "mean"} if method == "ablation_cam_mean" else {}
    (one,) = detxai.explain(detector, image, method.removesuffix("_mean"), detections=box, **settings)
    return one.values, one.cost.forward_passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="ablation_cam,ablation_cam_mean,eigen_cam,the_box")
    parser.add_argument("--n-scenes", type=int, default=10, help="of each kind")
    parser.add_argument("--objects-a-scene", type=int, default=100, help="at most")
    parser.add_argument("--first-seed", type=int, default=500, help="none from 500 on was used in training")
    parser.add_argument("--detectors", nargs="+", default=["scenes-frcnn", "scenes-yolo"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.n_scenes)
    methods: list[str] = given.methods.split(",")
    table: list[dict[str, Any]] = []

    def tell(name: str, kind: str, rows: dict[str, list[tuple[float, ...]]]) -> None:
        for method, found in rows.items():
            means = [statistics.mean(column) for column in zip(*found)]
            table.append(
                {"detector": name, "kind": kind, "method": method, "n": len(found), **dict(zip(MEASURES, means))}
            )
            columns = " ".join(f"{mean:>12.3f}" for mean in means)
            print(f"{name:<13} {kind:<10} {method:<18} {len(found):>4} {columns}", flush=True)

    print(f"{'detector':<13} {'kind':<10} {'method':<18} {'n':>4}", *(f"{name:>12}" for name in MEASURES))
    for name in given.detectors:
        detector = detxai.wrap(name)
        every: dict[str, list[tuple[float, ...]]] = {method: [] for method in methods}
        for kind in KINDS:
            rows: dict[str, list[tuple[float, ...]]] = {method: [] for method in methods}
            for image, box, evidence in objects(detector, kind, seeds, given.objects_a_scene):
                for method in methods:
                    values, passes = map_of(method, detector, image, box)
                    rows[method].append(measured(values, evidence, passes))
            tell(name, kind, rows)
            for method, found in rows.items():
                every[method] += found
        tell(name, "all", every)
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
