"""Why this class and not that one: every method that asks about boxes takes the question."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from plain_hooks import TwoStages
from relu_detectors import with_relus

import detxai
from detxai.methods import METHODS, LayerCAM, methods_without_file
from detxai.methods.from_captum import CAPTUM_METHODS
from detxai.scenes import generate
from detxai.targets import ContrastTarget

CHEAP: dict[str, dict[str, Any]] = {
    "pixel_evidence": {"max_passes": 64},
    "region_shapley": {"max_passes": 64},
    "d_rise": {"n_masks": 32},
    "ablation_cam": {"ratio_channels_to_ablate": 0.02},
    "score_cam": {"layers": "backbone.body.stem.0"},
    "integrated_gradients": {"steps": 2},
    "smooth_grad": {"n_samples": 2},
    "gradient_shap": {"n_samples": 2},
    "occlusion": {"window": 24},
    "feature_ablation": {"regions": "grid", "n_regions": 9},
    "lime": {"regions": "grid", "n_regions": 9, "n_samples": 20},
    "kernel_shap": {"regions": "grid", "n_regions": 9, "n_samples": 20},
    "shapley_sampling": {"regions": "grid", "n_regions": 9, "n_orders": 1},
}
# attention is of a box's query, and of no class
ASKED = [name for name in methods_without_file() if METHODS[name].asks_about_boxes and name != "attention"]


@cache
def bundled(name: str) -> tuple[Any, Any]:
    """A trained detector and a scene for it."""
    return detxai.wrap(name), generate(0, "local").image


@pytest.mark.parametrize("name", ASKED)
def test_every_method_takes_a_contrast(name: str) -> None:
    """The other question has another answer."""
    needs_second_derivatives = name == "shapley_cam"  # which RoIAlign has not
    detector, image = bundled("scenes-yolo" if needs_second_derivatives else "scenes-frcnn")
    if METHODS[name] in CAPTUM_METHODS:  # some want ReLUs that are modules, which the bundled detector has not
        pytest.importorskip("captum")
        case: Any = TwoStages()
        detector, image = detxai.wrap(with_relus(case.model)), case.image
    found = detector.detect(image, 0.02)[:1]
    kind: Any = METHODS[name]
    quiet = {"progress": False} if "progress" in kind.__dataclass_fields__ else {}
    maps = [
        kind(target=target, **CHEAP.get(name, {}), **quiet)(detector, image, found)[0].values
        for target in (ContrastTarget, detxai.targets.ClassScoreTarget)
    ]
    assert all(np.isfinite(map_).all() and map_.any() for map_ in maps)
    assert not np.array_equal(maps[0], maps[1])


def test_the_other_class_may_be_named() -> None:
    detector, image = bundled("scenes-frcnn")
    found = detector.detect(image)[:1]
    others = [label for label in (1, 2, 3) if label != int(found.labels[0])]  # 0 is the background
    first, second = (
        LayerCAM(target=partial(ContrastTarget, other=other))(detector, image, found)[0].values for other in others[:2]
    )
    assert first.any()
    assert not np.array_equal(first, second)
