"""What is asked of one image inside ``remembering`` shares a pass, equals what is asked outside, and leaves nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from faster_rcnns import small_faster_rcnn
from torch import Tensor, nn

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.remembering import remembered

Pixels = npt.NDArray[np.uint8]


def picture(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(params=["faster_rcnn", "v8", "26", "rt-detr"])
def detector(request: pytest.FixtureRequest) -> Detector:
    if request.param == "faster_rcnn":
        return detxai.wrap(small_faster_rcnn())
    pytest.importorskip("ultralytics")
    from yolo_seeded import SIZE, seeded

    from detxai.adapters.ultralytics.yolo import YOLOAdapter

    return YOLOAdapter(seeded(request.param), input_size=SIZE)


def everything(detector: Detector, image: Pixels) -> list[Tensor]:
    """Detections, candidates, features, and the maps of a method that asks about the box."""
    found = detector.detect(image, 0.0)
    with torch.no_grad():
        seen = detector.candidates(image)
    levels = detector.features(image).levels.values()
    settings: dict[str, Any] = {"ranking": "energy", "rest": "zero", "ratio_channels_to_ablate": 0.005}
    maps = detxai.explain(detector, image, "ablation_cam", found[:2], progress=False, **settings)
    return [found.boxes, found.scores, found.labels, seen.boxes, seen.class_scores, seen.objectness, *levels] + [
        torch.from_numpy(explanation.values) for explanation in maps
    ]


def test_every_answer_is_the_same_in_every_bit(detector: Detector) -> None:
    images = [picture(0), picture(1)]
    alone = [everything(detector, image) for image in images]
    with detector.remembering():
        for place in (0, 1, 0):
            for ours, theirs in zip(everything(detector, images[place]), alone[place], strict=True):
                assert torch.equal(ours, theirs)


def test_the_trunk_runs_once(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    stem = next(module for module in detector.model.modules() if isinstance(module, nn.Conv2d))
    convolved, image = stem._conv_forward, picture(0)

    def counted(*given: Any) -> Any:
        ran.append(1)
        return convolved(*given)

    monkeypatch.setattr(stem, "_conv_forward", counted)
    for context, passes in ((detector.borrowed, 3), (detector.remembering, 1)):
        ran.clear()
        with context(), torch.no_grad():
            detector.detect(image)
            detector.candidates(image)
            detector.features(image)
        assert len(ran) == passes


def test_explain_finds_the_boxes_and_their_maps_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, image, ran = detxai.wrap(small_faster_rcnn()), picture(0), list[int]()
    method = detxai.AblationCAM(ratio_channels_to_ablate=0.1, progress=False)
    apart = detxai.explain(detector, image, method, detector.detect(image, 0))
    stem = next(module for module in detector.model.modules() if isinstance(module, nn.Conv2d))
    convolved = stem._conv_forward

    def counted(*given: Any) -> Any:
        ran.append(1)
        return convolved(*given)

    monkeypatch.setattr(stem, "_conv_forward", counted)
    explanations = detxai.explain(detector, image, method, score_threshold=0)
    assert len(ran) == 1
    assert len(explanations) == len(apart) > 0
    assert all(np.array_equal(one.values, other.values) for one, other in zip(explanations, apart, strict=True))


def test_detections_and_candidates_can_share_the_heads_too(detector: Detector) -> None:
    images = [picture(0), picture(1)]

    def looked_at(image: Pixels) -> list[Tensor]:
        found, seen = detector.detect(image, 0.0), detector.candidates(image)
        return [found.boxes, found.scores, found.labels, seen.boxes, seen.class_scores, seen.objectness]

    with torch.no_grad():
        alone = [looked_at(image) for image in images]
        with detector.remembering(heads=True):
            for place in (0, 1, 0):
                for ours, theirs in zip(looked_at(images[place]), alone[place], strict=True):
                    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left(detector: Detector, fails: bool) -> None:
    before = {name: dict(vars(module)) for name, module in detector.model.named_modules()}
    with pytest.raises(KeyboardInterrupt) if fails else detector.borrowed(), detector.remembering():
        inputs = detector.prepare(picture(0))
        levels = [weakref.ref(level) for level in detector.features(inputs).levels.values()]
        inputs = weakref.ref(inputs)  # type: ignore[assignment]
        gc.collect()
        assert all(level() is not None for level in levels)
        if fails:
            raise KeyboardInterrupt
    gc.collect()
    assert all(level() is None for level in levels)
    assert inputs() is None  # type: ignore[operator]
    assert {name: dict(vars(module)) for name, module in detector.model.named_modules()} == before


def test_gradients_are_computed_all_the_same() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    weight = next(detector.model.get_submodule("backbone").parameters())
    weight.requires_grad_(True)
    with detector.remembering():
        with torch.no_grad():
            detector.candidates(picture(0))
        (gradient,) = torch.autograd.grad(detector.candidates(picture(0)).class_scores.sum(), weight)
    assert float(gradient.abs().sum()) > 0


def test_layers_inside_remembered_ones_can_be_explained() -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), picture(0)
    (expected,) = detxai.explain(detector, image, "eigen_cam", layers="backbone.blocks.1")
    with detector.remembering():
        detector.detect(image)
        (explanation,) = detxai.explain(detector, image, "eigen_cam", layers="backbone.blocks.1")
    assert np.array_equal(explanation.values, expected.values)


class Layers(nn.Module):
    """Two layers, of which the second may write into what the first put out."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.ReLU(inplace=in_place)

    def forward(self, given: Tensor) -> Any:
        return self.second(self.first(given))


@pytest.mark.parametrize("in_place", [False, True])
def test_what_was_changed_in_place_is_computed_again(in_place: bool) -> None:
    model, given = Layers(in_place=in_place).eval(), torch.randn(4, 3, generator=torch.manual_seed(0))
    with torch.no_grad():
        expected = model(given).clone()
        with remembered(model, ["second"]):
            kept = model(given)
            assert torch.equal(model(given), expected)
            assert torch.equal(model(given.clone()), expected)
            kept.add_(1)
            assert torch.equal(model(given), expected)
            given.mul_(2)
            wanted = torch.relu(model.first.weight @ given.T + model.first.bias[:, None]).T
            assert torch.allclose(model(given), wanted, atol=1e-6)


def halve(weight: Tensor) -> None:
    weight.mul_(0.5)


def halve_data(weight: Tensor) -> None:
    weight.data.mul_(0.5)


def put_another(weight: Tensor) -> None:
    weight.data = weight.data * 0.5


@pytest.mark.parametrize("change", [halve, halve_data, put_another])
def test_what_other_weights_put_out_is_computed_anew(change: Callable[[Tensor], None]) -> None:
    changed, plain, image = small_faster_rcnn(), small_faster_rcnn(), picture(0)
    detector = detxai.wrap(changed)
    with detector.remembering(), torch.no_grad():
        before = detector.candidates(image)
        for model in (changed, plain):
            change(model.backbone.blocks[1][0].weight)
        after = detector.candidates(image)
        assert torch.equal(detector.candidates(image).class_scores, after.class_scores)
    expected = detxai.wrap(plain).candidates(image)
    assert torch.equal(after.class_scores, expected.class_scores)
    assert not torch.equal(after.class_scores, before.class_scores)
