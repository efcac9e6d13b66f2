"""Do the values of a map add up to what the picture adds to the score?

    python examples/do_maps_add_up.py [--n-scenes 2]

Integrated Gradients promises it (completeness), SHAP's methods and region_shapley too (local accuracy). For each
bundled detector and method: the sum of a map minus (score of the picture - score of a black picture), as a share of the
score; the median and the largest over the detected objects. Both scores are the detector's own answers, asked here.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import torch

import detxai
from detxai.methods import METHODS
from detxai.scenes import generate
from detxai.targets import ClassScoreTarget
from detxai.targets.target import score_targets

ASKED: list[tuple[str, dict[str, Any]]] = [
    ("integrated_gradients", {"steps": 64, "baseline": "black"}),
    ("integrated_gradients", {"steps": 256, "baseline": "black"}),
    ("gradient_shap", {}),
    ("region_shapley", {"fill": "black"}),
    ("kernel_shap", {"fill": "black"}),
    ("shapley_sampling", {"fill": "black"}),
    ("lime", {"fill": "black"}),
    ("feature_ablation", {"fill": "black"}),
    ("input_x_gradient", {}),
]


def score(detector: Any, image: Any, box: Any) -> float:
    with torch.no_grad():
        return float(score_targets(ClassScoreTarget.of(box), detector.candidates(image))[0, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-scenes", type=int, default=2)
    given = parser.parse_args()
    for model in ("scenes-frcnn", "scenes-yolo"):
        detector = detxai.wrap(model)
        scenes = [generate(seed, "local").image for seed in range(500, 500 + given.n_scenes)]
        print(f"\n{model}\n{'method':>40} {'median':>8} {'largest':>8}")
        for name, settings in ASKED:
            gaps = []
            for image in scenes:
                for explanation in METHODS[name](**settings)(detector, image, detector.detect(image, 0.3)):
                    whole = score(detector, image, explanation.detection)
                    adds = whole - score(detector, np.zeros_like(image), explanation.detection)
                    gaps.append(abs(float(explanation.values.sum(dtype=np.float64)) - adds) / whole)
            words = " ".join(f"{key}={value}" for key, value in settings.items())
            print(f"{name + ' ' + words:>40} {statistics.median(gaps):8.4f} {max(gaps):8.4f}", flush=True)


if __name__ == "__main__":
    main()
