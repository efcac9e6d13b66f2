"""What makes a part another one than a shortcut was proved for, and that detxai's own hooks do not."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from plain_hooks import OneStage, TwoStages
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from detxai import AblationCAM
from detxai.adapters.changes.unchanged import change_of
from detxai.adapters.layers import capture
from detxai.adapters.structure import NoShortcut


class Quantised(Tensor):
    """A weight that computes in its own way."""


def _weights_of_another_type(layer: Any) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised))


def _patched_inside(layer: Any) -> None:
    layer._conv_forward = lambda *given: nn.Conv2d._conv_forward(layer, *given)


def _anothers_method(layer: Any) -> None:
    layer.forward = copy.deepcopy(layer).forward


def _partial_hook(layer: Any) -> None:
    layer.register_forward_hook(functools.partial(lambda *_: None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_weights_of_another_type, "has a weight of type Quantised"),
        (_patched_inside, "has a _conv_forward that is not its class's own"),
        (_anothers_method, "has a forward that is not its class's own"),
        (_partial_hook, "has a forward hook"),
        (lambda layer: layer.register_forward_pre_hook(lambda *_: None), "has a forward pre-hook"),
        (lambda layer: layer.register_full_backward_hook(lambda *_: None), "has a backward hook"),
        (lambda layer: layer.register_full_backward_pre_hook(lambda *_: None), "has a backward pre-hook"),
        (lambda layer: layer.compile(backend="eager"), "is compiled"),
        (lambda layer: setattr(layer, "forward", layer.forward), None),  # what it would have called anyway
        (lambda layer: setattr(layer, "type", "Conv2d"), None),
    ],
)
def test_what_is_said_of_a_convolution(change: Any, said: str | None) -> None:
    layer = nn.Conv2d(2, 2, 1)
    assert change_of(layer, {nn.Conv2d}) is None
    change(layer)
    assert change_of(layer, {nn.Conv2d}) == said


def test_a_scripted_part_and_a_hook_on_everything() -> None:
    layer = nn.Conv2d(2, 2, 1)
    assert change_of(torch.jit.script(layer), {nn.Conv2d}) == "is scripted"
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert change_of(layer, {nn.Conv2d}) == "has a forward hook"
    finally:
        handle.remove()


def test_a_method_written_over_in_the_class_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    case = TwoStages()
    detector = case.wrap(case.model)
    features = detector.features(case.image)
    own = RoIHeads.postprocess_detections
    with detector.borrowed():
        assert not isinstance(detector.structure(features), NoShortcut)
        monkeypatch.setattr(RoIHeads, "postprocess_detections", lambda *given: own(*given))
        structure = detector.structure(features)
    assert structure == NoShortcut("roi_heads has a postprocess_detections that is not its class's own")


@pytest.mark.parametrize("kind", [TwoStages, OneStage])
def test_what_detxai_itself_puts_on_a_model_changes_nothing(kind: Any) -> None:
    case = kind()
    detector = case.wrap(case.model)
    heads = "roi_heads.box_head" if kind is TwoStages else "model.3"
    features = detector.features(case.image)
    with detector.borrowed(), capture(case.model, [heads]):
        assert not isinstance(detector.structure(features), NoShortcut)
        case.model(case.image[None] if kind is OneStage else [case.image])
    detector.detections(features)
    assert not isinstance(detector.structure(features), NoShortcut)


def test_the_reason_is_said_once_in_the_log_and_in_every_explanation(caplog: pytest.LogCaptureFixture) -> None:
    case = TwoStages()
    case.model.rpn.head.cls_logits.register_forward_hook(lambda *_: None)
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:2]
    for _ in range(2):
        for explanation in AblationCAM(progress=False)(detector, case.image, found):
            assert explanation.details["tail"] == {"kind": "full", "reason": "rpn.head.cls_logits has a forward hook"}
    assert caplog.text.count("rpn.head.cls_logits has a forward hook: ablations take the full tail") == 1


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda model: setattr(model.rpn.head, "conv", nn.Conv2d(4, 4, 3, padding=1).double()), "rpn.head.conv"),
        (lambda model: setattr(model.rpn.head, "cls_logits", nn.Conv2d(4, 3, 3, padding=1).double()), "cls_logits"),
        (lambda model: setattr(model.rpn.head, "cls_logits", nn.Sequential(model.rpn.head.cls_logits)), "cls_logits"),
        (lambda model: setattr(model.rpn, "filter_proposals", lambda *_: None), "rpn has a filter_proposals"),
        (lambda model: setattr(model.rpn.box_coder, "decode_single", lambda *_: None), "rpn.box_coder has a decode_s"),
        (lambda model: setattr(model.roi_heads.box_roi_pool, "sampling_ratio", 0), "sampling_ratio of 0"),
    ],
)
def test_parts_of_another_shape_say_so(change: Any, part: str) -> None:
    case = TwoStages()
    detector = case.wrap(case.model)
    features = detector.features(case.image)
    change(case.model)
    with detector.borrowed():
        structure: Any = detector.structure(features)
    assert isinstance(structure, NoShortcut)
    assert part in structure.reason
