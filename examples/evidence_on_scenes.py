"""Does a map find the cause? Every method on scenes whose evidence is planted and known.

    python examples/evidence_on_scenes.py [--n-scenes 10] [--json FILE]

For each bundled detector, scene kind and method, over the detected objects that have evidence: the area under the ROC
curve of the map against the evidence mask (0.5 is chance, 1 is perfect), and the share of the map's positive sum on the
evidence as a multiple of the share that a flat map would have there. The box itself stands beside, as a map: it
loses where the cause lies outside.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

import detxai
from detxai.geometry import box_iou
from detxai.scenes import CLASS_NAMES, KINDS, generate

FILLS: tuple[Literal["zero", "mean"], ...] = ("zero", "mean")
FIRST_SEED = 500  # none of them used in training


def roc_auc(values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> float:
    """Chance that a pixel of the mask has a higher value than one outside it; ties count half."""
    _, place, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    inside, outside = mask.sum(), (~mask).sum()
    return float((ranks[mask.ravel()].sum() - inside * (inside + 1) / 2) / (inside * outside))


def gain(values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> float:
    """Share of the positive sum on the mask, over the mask's share of the image."""
    positive = np.maximum(values, 0)
    total = float(positive.sum())
    return float(positive[mask].sum() / total / mask.mean()) if total > 0 else 0.0


def box_map(box: list[float], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    values = np.zeros(shape, dtype=np.float32)
    x1, y1, x2, y2 = (round(side) for side in box)
    values[y1:y2, x1:x2] = 1
    return values


def measure(detector: Any, scene: Any) -> list[tuple[str, float, float]]:
    """(method, AUC, gain) for every detected object of the scene that has evidence."""
    found = detector.detect(scene.image, 0.3)
    if len(found) == 0:
        return []
    (eigen,) = detxai.EigenCAM()(detector, scene.image)
    zero, mean = (detxai.AblationCAM(fill=fill, progress=False)(detector, scene.image, found) for fill in FILLS)
    results = []
    names = [found.name(i) for i in range(len(found))]
    for i in range(len(scene)):
        mask = scene.evidence[i]
        iou = box_iou(torch.as_tensor(scene.boxes[i], dtype=torch.float32), found.boxes)
        same = [j for j, name in enumerate(names) if name == CLASS_NAMES[scene.labels[i]] and iou[j] >= 0.5]
        if not same or not mask.any():
            continue
        j = max(same, key=lambda j: float(iou[j]))
        maps = {
            "ablation_cam": zero[j].values,
            "ablation_cam, mean fill": mean[j].values,
            "eigen_cam": eigen.values,
            "the box": box_map(found.boxes[j].tolist(), mask.shape),
        }
        results += [(method, roc_auc(values, mask), gain(values, mask)) for method, values in maps.items()]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n-scenes", type=int, default=10, help="of each kind")
    parser.add_argument("--detectors", nargs="+", default=["scenes-frcnn", "scenes-yolo"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    table = []
    print(f"{'detector':<14} {'kind':<10} {'method':<23} {'objects':>7} {'AUC':>6} {'gain':>6}")
    for name in given.detectors:
        detector = detxai.wrap(name)
        for kind in KINDS:
            rows: dict[str, list[tuple[float, float]]] = {}
            for seed in range(FIRST_SEED, FIRST_SEED + given.n_scenes):
                for method, auc, times_chance in measure(detector, generate(seed, kind)):
                    rows.setdefault(method, []).append((auc, times_chance))
            for method, entries in rows.items():
                auc, times_chance = (statistics.mean(column) for column in zip(*entries))
                table.append({"detector": name, "kind": kind, "method": method, "n": len(entries)})
                table[-1] |= {"auc": auc, "gain": times_chance}
                print(f"{name:<14} {kind:<10} {method:<23} {len(entries):>7} {auc:>6.3f} {times_chance:>6.2f}")
        for method in dict.fromkeys(entry["method"] for entry in table):
            of_all = [entry for entry in table if (entry["detector"], entry["method"]) == (name, method)]
            auc, times_chance = (statistics.mean(entry[key] for entry in of_all) for key in ("auc", "gain"))
            print(f"{name:<14} {'mean':<10} {method:<23} {'':>7} {auc:>6.3f} {times_chance:>6.2f}")
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
