"""What one pass computed is handed on: what is read from features equals what is asked separately, in every bit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from faster_rcnns import small_faster_rcnn
from torch import Tensor, nn

import detxai
from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector

Pixels = npt.NDArray[np.uint8]


def picture(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(params=["faster_rcnn", "v8", "26", "rt-detr"])
def detector(request: pytest.FixtureRequest) -> NetworkDetector:
    if request.param == "faster_rcnn":
        return detxai.wrap(small_faster_rcnn())
    pytest.importorskip("ultralytics")
    from yolo_seeded import SIZE, seeded

    from detxai.adapters.ultralytics.yolo import YOLOAdapter

    return YOLOAdapter(seeded(request.param), input_size=SIZE)


def everything(detector: NetworkDetector, image: Pixels | Features) -> list[Tensor]:
    """Detections, candidates, features, and the maps of a method that asks about the box."""
    found = detector.detections(image, 0.0)
    with torch.no_grad():
        seen = detector.candidates(image)
    levels = detector.features(image).levels.values()
    settings: dict[str, Any] = {"ranking": "energy", "unablated_weights": "zero", "ratio_channels_to_ablate": 0.005}
    maps = detxai.explain(detector, image, "ablation_cam", found[:2], progress=False, **settings)
    return [found.boxes, found.scores, found.labels, seen.boxes, seen.class_scores, seen.objectness, *levels] + [
        torch.from_numpy(explanation.values) for explanation in maps
    ]


def passes(detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for each run of the model's first convolution."""
    ran: list[int] = []
    stem = next(module for module in detector.model.modules() if isinstance(module, nn.Conv2d))
    convolved = stem._conv_forward

    def counted(*given: Any) -> Any:
        ran.append(1)
        return convolved(*given)

    monkeypatch.setattr(stem, "_conv_forward", counted)
    return ran


def test_every_answer_is_the_same_in_every_bit(detector: NetworkDetector) -> None:
    images = [picture(0), picture(1)]
    alone = [everything(detector, image) for image in images]
    features = [detector.features(image) for image in images]
    for place in (0, 1, 0):
        for ours, theirs in zip(everything(detector, features[place]), alone[place], strict=True):
            assert torch.equal(ours, theirs)


def test_the_trunk_runs_once(detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(0)
    ran = passes(detector, monkeypatch)
    for shared, n_passes in ((False, 3), (True, 1)):
        ran.clear()
        shown = detector.shared_pass(image) if shared else image
        assert isinstance(shown, Features) == shared
        with torch.no_grad():
            detector.detections(shown)
            detector.candidates(shown)
            detector.features(shown)
        assert len(ran) == n_passes
    ran.clear()
    detector.detections_and_candidates(image)
    assert len(ran) == 1


def test_detections_and_candidates_share_the_heads_too(
    detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(0)
    with torch.no_grad():
        found, seen = detector.detect(image, 0.0), detector.candidates(image)
    parts = [part for name in detector._heads for part in detector.model.get_submodule(name).children()]
    ran: list[nn.Module] = []

    def counted(part: nn.Module) -> Any:
        own = part.forward

        def forward(*given: Any, **named: Any) -> Any:
            ran.append(part)
            return own(*given, **named)

        return forward

    for part in parts:
        monkeypatch.setattr(part, "forward", counted(part))
    detector.candidates(image)
    once = list(ran)
    ran.clear()
    ours, candidates = detector.detections_and_candidates(image, 0.0)
    assert ran == once
    assert once
    assert torch.equal(ours.boxes, found.boxes)
    assert torch.equal(ours.scores, found.scores)
    assert torch.equal(candidates.boxes, seen.boxes)
    assert torch.equal(candidates.class_scores, seen.class_scores)


def test_explain_finds_the_boxes_and_their_maps_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), picture(0)
    method = detxai.AblationCAM(ratio_channels_to_ablate=0.1, progress=False)
    apart = detxai.explain(detector, image, method, detector.detect(image, 0))
    ran = passes(detector, monkeypatch)
    explanations = detxai.explain(detector, image, method, score_threshold=0)
    assert len(ran) == 1
    assert len(explanations) == len(apart) > 0
    assert all(np.array_equal(one.values, other.values) for one, other in zip(explanations, apart, strict=True))


@pytest.mark.parametrize("method", ["eigen_cam", "layer_cam", "odam", "fem", "d_rise", "pixel_evidence"])
def test_methods_take_features_in_place_of_the_image(method: str) -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), picture(0)
    settings: dict[str, Any] = {"d_rise": {"n_masks": 32}, "pixel_evidence": {"max_passes": 64}}.get(method, {})
    found = detector.detect(image, 0)[:1]
    expected = detxai.explain(detector, image, method, found, **settings)
    explained = detxai.explain(detector, detector.features(image), method, found, **settings)
    assert all(np.array_equal(one.values, other.values) for one, other in zip(explained, expected, strict=True))
    assert np.array_equal(explained[0].image, image)


@dataclass(frozen=True)
class OwnMethod:
    """A method of a user's, who knows images alone."""

    given: list[Any]
    name: str = "own"
    asks_about_boxes: bool = True

    def __call__(self, detector: Any, image: Any, detections: detxai.Detections) -> list[Any]:
        self.given.append(image)
        return list(detections)


def test_a_users_own_method_gets_the_image() -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), picture(0)
    as_float = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    method = OwnMethod([])
    for shown in (image, as_float, detector.features(image), detector.features(as_float)):
        detxai.explain(detector, shown, method, score_threshold=0)
    assert [type(given) for given in method.given] == [np.ndarray, Tensor, np.ndarray, Tensor]
    for given in method.given:
        assert np.array_equal(given, image if isinstance(given, np.ndarray) else as_float)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left(detector: NetworkDetector, fails: bool) -> None:
    before = {name: dict(vars(module)) for name, module in detector.model.named_modules()}
    features: Any = detector.features(picture(0))
    levels = [weakref.ref(level) for level in features.levels.values()]
    if fails:

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        layers = [module for module in detector.model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        handles = [module.register_forward_hook(stop) for module in layers]
        for ask in (detector.detections, detector.candidates):
            with pytest.raises(KeyboardInterrupt):
                ask(features)
        for handle in handles:
            handle.remove()
    else:
        detector.detections(features)
        detector.candidates(features)
    assert all(level() is not None for level in levels)
    del features
    gc.collect()
    assert all(level() is None for level in levels)
    assert {name: dict(vars(module)) for name, module in detector.model.named_modules()} == before


def test_features_stay_as_they_are(detector: NetworkDetector) -> None:
    features = detector.features(picture(0))
    before = [level.clone() for level in features.levels.values()]
    detector.detections(features)
    detector.candidates(features)
    assert all(torch.equal(level, was) for level, was in zip(features.levels.values(), before, strict=True))


def test_gradients_end_at_the_features() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    features = detector.features(picture(0))
    held = {name: level.clone().requires_grad_() for name, level in features.levels.items()}
    scores = detector.candidates(features.with_levels(held)).class_scores
    gradients = torch.autograd.grad(scores.sum(), list(held.values()), allow_unused=True)
    assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 0


def test_other_layers_are_computed_anew() -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), picture(0)
    (expected,) = detxai.explain(detector, image, "eigen_cam", layers="backbone.blocks.1")
    features = detector.features(image)
    (explanation,) = detxai.explain(detector, features, "eigen_cam", layers="backbone.blocks.1")
    assert np.array_equal(explanation.values, expected.values)


def test_detections_follow_changed_features(detector: NetworkDetector) -> None:
    """Brute force: plain hooks on the model itself that put the changed levels out."""
    image = picture(0)
    features = detector.features(image)
    changed = features.with_levels({name: level / 2 for name, level in features.levels.items()})
    found = detector.detections(changed, 0.0)

    def put_out(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> Any:
            if isinstance(output, dict):
                return type(output)((entry, changed.levels[f"{name}:{entry}"]) for entry in output)
            return changed.levels[name]

        return hook

    handles = [detector.model.get_submodule(name).register_forward_hook(put_out(name)) for name in features.layers]
    expected = detector.detect(image, 0.0)
    for handle in handles:
        handle.remove()
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    clean = detector.detect(image, 0.0)
    assert len(found) != len(clean) or not torch.equal(found.scores, clean.scores)


def dropping(model: nn.Module) -> None:
    """A hook of the user's that drops the best box of each image."""
    model.register_forward_hook(lambda module, given, output: [{k: v[1:] for k, v in one.items()} for one in output])


def counting(model: nn.Module) -> None:
    """A hook of the user's that changes nothing."""
    for module in list(model.modules())[-3:]:
        module.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("change", [dropping, counting])
@pytest.mark.parametrize("as_float", [False, True])
def test_a_model_with_hooks_answers_from_features_as_from_the_image(change: Any, as_float: bool) -> None:
    model, image = small_faster_rcnn(), picture(0)
    change(model)
    detector = detxai.wrap(model)
    shown: Any = torch.from_numpy(image).permute(2, 0, 1).float() / 254.5 if as_float else image
    shown = shown.clamp(max=1) if as_float else shown
    found, expected = detector.detections(detector.features(shown), 0.0), detector.detect(shown, 0.0)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)


def halved(weight: Tensor) -> None:
    weight.mul_(0.5)


def halved_data(weight: Tensor) -> None:
    weight.data.mul_(0.5)


def replaced_data(weight: Tensor) -> None:
    weight.data = weight.data * 0.5


@pytest.mark.parametrize("change", [halved, halved_data, replaced_data])
def test_an_image_is_computed_with_the_weights_of_now(change: Callable[[Tensor], None]) -> None:
    changed, plain, image = small_faster_rcnn(), small_faster_rcnn(), picture(0)
    detector = detxai.wrap(changed)
    with torch.no_grad():
        features = detector.features(image)
        before = detector.candidates(image)
        for model in (changed, plain):
            change(model.backbone.blocks[1][0].weight)
        after = detector.candidates(image)
        assert torch.equal(detector.candidates(features).class_scores, before.class_scores)
    expected = detxai.wrap(plain).candidates(image)
    assert torch.equal(after.class_scores, expected.class_scores)
    assert not torch.equal(after.class_scores, before.class_scores)


def test_what_cannot_be_answered_is_refused() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    with pytest.raises(ValueError, match="features must be of one image, got 2"):
        detector.detections(detector.features([picture(0), picture(1)]))
    features = detector.features(picture(0))
    changed = features.with_levels({name: level * 0 for name, level in features.levels.items()})
    with pytest.raises(ValueError, match="features were changed, and tell nothing about the layers"):
        detector.features(changed, "backbone.blocks.1")
    with pytest.raises(ValueError, match="score_threshold must lie in"):
        detector.detections(features, 2)


def test_a_black_box_shares_no_pass() -> None:
    detector = detxai.wrap(lambda images: [detxai.Detections([[1, 1, 8, 8]], [0.9], [0]) for _ in images])
    image = picture(0)
    assert detector.shared_pass(image) is image
    assert len(detector.detections(image)) == 1


def test_under_autocast_each_question_runs_a_pass_of_its_own(detector: NetworkDetector) -> None:
    image = picture(0)
    features = detector.features(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = detector.features(features)
        assert detector.shared_pass(image) is image
        found = detector.detections(rounded, 0.0)
        assert torch.equal(found.boxes, detector.detect(image, 0.0).boxes)
    assert rounded.autocast
    assert not features.autocast
    again = detector.features(rounded)
    assert all(torch.equal(level, features.levels[name]) for name, level in again.levels.items())
