"""What every method's class says of itself: listed by ``detxai methods``, and true."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import detxai
from detxai.cli import main
from detxai.explain import make_method
from detxai.methods import METHODS, methods_without_file
from detxai.scenes import generate

NEEDS = ("answers", "network", "gradients", "attention")


def listed(capsys: pytest.CaptureFixture[str], *names: str) -> list[dict[str, Any]]:
    assert main(["methods", *names, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_every_method_is_listed_with_its_claims(capsys: pytest.CaptureFixture[str]) -> None:
    methods = listed(capsys)
    assert [method["name"] for method in methods] == list(METHODS)
    for method in methods:
        assert method["needs"] in NEEDS
        assert method["asks"] in ("box", "image")
        assert method["passes"]
        assert method["summary"]
        assert ("low_pass" in method["settings"]) == (method["needs"] == "gradients")
    assert [method["name"] for method in methods if method["is_default"]] == ["pixel_evidence"]


def test_the_text_names_each_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name}" in f"\n{text}" for name in METHODS)
    assert main(["methods", "finer_cam"]) == 0
    text = capsys.readouterr().out
    assert "alpha=1.0, n_similar=3, low_pass=null" in text
    assert "needs:    gradients through the network" in text
    assert "target=ClassScoreTarget" in text


def test_the_defaults_listed_are_those_that_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for method in listed(capsys, "d_rise", "hires_cam", "score_cam", "kpca_cam"):
        plain = {name: value for name, value in method["settings"].items() if not isinstance(value, (str, dict))}
        assert make_method(method["name"], **plain) == make_method(method["name"])


def test_an_unknown_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "grad_can"]) == 2
    assert "METHOD must be one of" in capsys.readouterr().err


FEW: dict[str, dict[str, Any]] = {  # passes: what is asked is the same with many
    "pixel_evidence": {"max_passes": 130},
    "region_shapley": {"max_passes": 64},
    "d_rise": {"n_masks": 32},
    "ablation_cam": {"ratio_channels_to_ablate": 0.1},
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"n_samples": 2},
    "gradient_shap": {"n_samples": 2},
    "occlusion": {"window": 40, "stride": 40},
    "feature_ablation": {"n_regions": 12},
    "lime": {"n_samples": 24, "n_regions": 12},
    "kernel_shap": {"n_samples": 24, "n_regions": 12},
    "shapley_sampling": {"n_orders": 2, "n_regions": 12},
}
STEADY = [("scenes-frcnn", name) for name in methods_without_file() if name not in ("score_cam", "attention")] + [
    ("scenes-rtdetr", name) for name, method in METHODS.items() if method.needs in ("gradients", "attention")
]  # score_cam takes a pass for each of 320 channels; l2x needs a file that was trained


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[Any, Any, detxai.Detections]]:
    image = generate(3).image
    detectors = {name: detxai.wrap(name) for name in ("scenes-frcnn", "scenes-rtdetr")}
    return {name: (detector, image, detector.detect(image, 0.3)[:1]) for name, detector in detectors.items()}


@pytest.mark.parametrize(("named", "name"), STEADY)
def test_what_another_machine_rounds_otherwise_changes_no_map(named: str, name: str, scenes: Any) -> None:
    """A box is computed anew to five digits: at its own place the IoU has a kink, whose side must not decide."""
    detector, image, found = scenes[named]
    again = detxai.Detections(found.boxes + torch.tensor([[2e-5, -3e-5, 2e-5, 3e-5]]), found.scores, found.labels)
    method = make_method(name, **FEW.get(name, {}))
    try:
        (first,) = detxai.explain(detector, image, method, found)
    except ValueError as refused:
        pytest.skip(str(refused))
    (second,) = detxai.explain(detector, image, method, again)
    assert np.abs(first.values - second.values).max() <= 1e-3 * np.abs(first.values).max()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs != "answers"])
def test_a_plain_function_is_refused_where_more_than_answers_is_needed(name: str) -> None:
    detector = detxai.wrap(lambda images: [detxai.Detections([[1, 1, 8, 8]], [0.9], [0]) for _ in images])
    found = detxai.Detections([[1, 1, 8, 8]], [0.9], [0])
    with pytest.raises((TypeError, ValueError), match=r"plain function|gradients"):
        detxai.explain(detector, np.zeros((16, 16, 3), np.uint8), name, found)
