"""RF-DETR of the package rfdetr: what its own predict answers, and its queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_snapshots import assert_same, snapshot

import detxai

rfdetr: Any = pytest.importorskip("rfdetr", reason="rfdetr is not installed")

PHOTO = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
PHOTO[20:60, 30:80] = (240, 40, 30)


def made(variant: str, side: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(rfdetr, variant)(pretrain_weights=None, device="cpu", resolution=side)
        with torch.no_grad():
            for name, parameter in model.model.model.named_parameters():
                if parameter.ndim > 1 and "encoder" not in name and "sampling_offsets" not in name:
                    parameter.add_(torch.randn_like(parameter) * 0.5 / parameter[0].numel() ** 0.5)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return made("RFDETRNano", 96)


@pytest.fixture(scope="module")
def segmenter() -> Any:
    return made("RFDETRSegNano", 120)


@pytest.mark.parametrize(("name", "height"), [("model", 90), ("model", 40), ("segmenter", 90)])
def test_detections_are_those_of_predict_and_are_candidates(
    name: str, height: int, request: pytest.FixtureRequest
) -> None:
    model, image = request.getfixturevalue(name), PHOTO[:height]
    expected = model.predict(image, threshold=0.01)
    detector = detxai.wrap(model)
    found = detector.detect(image, 0.01)
    assert len(found) == len(expected) > 0
    assert torch.equal(found.boxes, torch.from_numpy(expected.xyxy))
    assert torch.equal(found.scores, torch.from_numpy(expected.confidence))
    assert torch.equal(found.labels, torch.from_numpy(expected.class_id).long())
    with torch.no_grad():
        candidates = detector.candidates(image)
    boxes, scores = candidates.of_labels(found.labels)
    off = (boxes[:, 0] - found.boxes[:, None]).abs().amax(-1) / 100 + (scores[:, 0] - found.scores[:, None]).abs()
    assert float(off.amin(1).max()) < 1e-4
    assert float(candidates.class_scores.max()) == pytest.approx(float(found.scores.max()), abs=1e-5)


def test_class_names_are_those_of_predict(model: Any) -> None:
    assert detxai.wrap(model).class_names[18] == "dog"  # COCO's number, as the published weights count
    with pytest.raises(ValueError, match="class_names must name each"):
        detxai.wrap(model, class_names=["a"])


def test_features_resume_and_gradients(model: Any) -> None:
    detector = detxai.wrap(model)
    features = detector.features(PHOTO)
    with torch.no_grad():
        full = detector.candidates(PHOTO)
        for layer in (None, "backbone.0.encoder"):
            resumed = detector.resume(detector.features(PHOTO, layer))
            assert torch.equal(full.boxes, resumed.boxes)
            assert torch.equal(full.class_scores, resumed.class_scores)
    levels = {name: level.clone().requires_grad_() for name, level in features.levels.items()}
    detector.resume(features.with_levels(levels)).class_scores.amax().backward()
    assert all(level.grad is not None and float(level.grad.abs().sum()) > 0 for level in levels.values())


def test_methods_explain_it_and_give_it_back(model: Any) -> None:
    model.model.model.train()
    before = snapshot(model.model.model)
    detector = detxai.wrap(model)
    found = detector.detect(PHOTO, 0)[:1]
    settings: dict[str, Any] = {
        "layer_cam": {},
        "eigen_cam": {},
        "ablation_cam": {"ratio_channels_to_ablate": 0.02, "unablated_weights": "zero"},
        "d_rise": {"n_masks": 16},
    }
    for method, chosen in settings.items():
        (explanation,) = detxai.explain(detector, PHOTO, method, found, **chosen)
        assert explanation.values.shape == PHOTO.shape[:2]
        assert np.isfinite(explanation.values).all()
    assert_same(before, snapshot(model.model.model))


def test_refusals(model: Any) -> None:
    with pytest.raises(TypeError, match="model must detect or segment, got RFDETRKeypointPreview"):
        detxai.wrap(rfdetr.RFDETRKeypointPreview(pretrain_weights=None, device="cpu"))
    with pytest.raises(TypeError, match=r"model must be an rfdetr.RFDETR, .* got rfdetr.models.lwdetr.LWDETR"):
        detxai.wrap(model.model.model)
    model._is_optimized_for_inference = True
    try:
        with pytest.raises(ValueError, match=r"call model.remove_optimized_model\(\) first"):
            detxai.wrap(model)
    finally:
        model._is_optimized_for_inference = False


def test_a_changed_predict_is_noticed(model: Any) -> None:
    own = model.predict

    def other(*given: Any, **named: Any) -> Any:
        found = own(*given, **named)
        found.confidence = found.confidence / 2
        return found

    model.predict = other
    try:
        with pytest.raises(ValueError, match=r"model.predict is not the family's own"):
            detxai.wrap(model).candidates(PHOTO)
    finally:
        del model.predict
