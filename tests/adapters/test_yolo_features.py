"""Features, resuming from them, gradients, geometry; and the model comes back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ultralytics")

from yolo_seeded import (
    DUAL,
    FAMILIES,
    bus,
    one_thread,  # noqa: F401  (a fixture that applies to every test here)
    same,
    seeded,
)

import detxai
from detxai.adapters.network import NetworkDetector
from detxai.adapters.ultralytics.graph import tail_from
from detxai.adapters.ultralytics.yolo import YOLOAdapter
from detxai.reshape import yolo_reshape_transform
from detxai.scenes import generate

LAYERS = [
    None,  # the head's inputs
    ("model.15",),  # the finest level only: its change goes on through the neck
    ("model.12",),  # neck
    ("model.4",),  # backbone, read by two layers
    ("model.0",),
    ("model.4", "model.18"),
    ("model.21", "model.15"),
    ("model.2.cv1",),  # inside a layer
    ("model.15", "model.22.cv3.0.0"),  # inside the head
]


def layers_of(adapter: YOLOAdapter) -> Any:
    return adapter.model.model


@pytest.mark.parametrize("layers", LAYERS)
def test_resuming_with_unchanged_features_is_the_full_pass(layers: tuple[str, ...] | None) -> None:
    adapter = YOLOAdapter(seeded("v8"))
    features = adapter.features(bus(), layers)
    assert features.layers == (layers or ("model.15", "model.18", "model.21"))
    assert all(level.ndim == 4 and not level.requires_grad for level in features.levels.values())
    assert same(adapter.resume(features), adapter.candidates(bus())) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_resumes_and_passes_gradients(family: str) -> None:
    adapter = YOLOAdapter(seeded(family, end2end=family in DUAL))
    for parameter in adapter.model.parameters():
        parameter.requires_grad_(False)
    features = adapter.features(bus())
    assert same(adapter.resume(features), adapter.candidates(bus())) == 0
    leaves = {name: level.clone().requires_grad_() for name, level in features.levels.items()}
    found = adapter.resume(features.with_levels(leaves))
    best = found.objectness[0].argsort(descending=True)[:50]
    for answer in (found.class_scores.sum(), found.boxes[0, best].sum()):
        gradients = torch.autograd.grad(answer, list(leaves.values()), retain_graph=True)
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
    for gradient in torch.autograd.grad(found.class_scores.sum(), list(leaves.values())):
        assert float(gradient.abs().max()) > 0
    assert yolo_reshape_transform(list(features.levels.values())).ndim == 4


@pytest.mark.parametrize("layers", LAYERS)
def test_versions_of_one_image_resume_as_brute_force_does(layers: tuple[str, ...] | None) -> None:
    """Brute force: a full pass with hooks that put the changed outputs in place."""
    adapter = YOLOAdapter(copy.deepcopy(seeded("v8").model).double(), input_size=96)
    features = adapter.features(bus(), layers)
    first = next(iter(features.levels))
    versions = torch.cat([features.levels[first] * factor for factor in (1, 0, -1)])
    found = adapter.resume(features.with_levels({first: versions}))
    inputs = adapter.prepare(bus())
    with adapter.borrowed(), torch.no_grad():
        hooked = NetworkDetector._features(adapter, inputs, features.layers)
        slow = [NetworkDetector._resume(adapter, hooked.with_levels({first: version[None]})) for version in versions]
    assert len(found) == 3
    for version, expected in zip(found, slow, strict=True):
        assert same(version, expected) < 1e-6
    assert same(found[1], slow[0]) > 0.01, "a changed feature changes something"


def test_a_batch_of_images_resumes_each_from_its_own() -> None:
    adapter = YOLOAdapter(seeded("v8"))
    images = [bus(), bus(200, 120)]
    features = adapter.features(images, "model.18")
    assert same(adapter.resume(features), adapter.candidates(images)) == 0


def test_only_what_depends_on_the_given_layers_runs() -> None:
    adapter = YOLOAdapter(seeded("v8"))
    ran: list[int] = []
    hooks = [layer.register_forward_hook(lambda module, *_: ran.append(module.i)) for layer in layers_of(adapter)[:-1]]
    try:
        for layers, run, cached in (
            (adapter.default_layers, (), ()),
            (("model.15",), (16, 17, 18, 19, 20, 21), (9, 12)),
            (("model.15", "model.18"), (19, 20, 21), (9,)),
            (("model.12",), (13, 14, 15, 16, 17, 18, 19, 20, 21), (4, 9)),
        ):
            tail = adapter.tail(layers)
            assert tail is not None
            assert (tail.run, tail.cached) == (run, cached)
            features = adapter.features(bus(), layers)
            ran.clear()
            adapter.resume(features)
            assert tuple(ran) == run
            assert sorted(features.cache.kept) == list(cached)
    finally:
        for hook in hooks:
            hook.remove()
    assert adapter.tail(["model.2.cv1"]) is None


def test_the_tail_of_a_layer_that_the_head_does_not_need_is_empty() -> None:
    assert tail_from([(-1,), (0,), (0,), (1,)], given=[2]).run == ()
    assert tail_from([(-1,), (0,), (0,), (1,)], given=[2]).cached == (1,)


@pytest.mark.parametrize("size", [(150, 200), (300, 90), (70, 310), (640, 480), (33, 47), (1000, 77)])
def test_a_planted_feature_comes_back_to_its_pixel(size: tuple[int, int]) -> None:
    adapter = YOLOAdapter(seeded("v8"))
    features = adapter.features(bus(*size))
    geometry = features.inputs.geometries[0]
    (top, left), (scale_y, scale_x) = geometry.offset, geometry.scale
    for level, stride in zip(features.levels.values(), adapter.strides):
        for row in range(level.shape[-2]):
            for column in range(level.shape[-1]):
                y, x = ((row + 0.5) * stride - top) / scale_y, ((column + 0.5) * stride - left) / scale_x
                if not (0 < y < geometry.image_size[0] and 0 < x < geometry.image_size[1]):
                    continue  # in the padding
                planted = torch.zeros(level.shape[-2:])
                planted[row, column] = 1
                back = geometry.map_to_image(planted)
                peak = (back == back.max()).nonzero().float().mean(0) + 0.5
                assert abs(float(peak[0]) - y) <= 0.5 * stride / scale_y
                assert abs(float(peak[1]) - x) <= 0.5 * stride / scale_x


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that a call could leave behind."""
    kept: dict[str, Any] = {}
    for name, module in model.named_modules():
        kept[f"{name} training"] = module.training
        kept[f"{name} attributes"] = {k: id(v) for k, v in vars(module).items()}
        kept[f"{name} hooks"] = (
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        kept[name] = (
            id(tensor),
            tensor._version,
            tensor.requires_grad,
            None if tensor.grad is None else id(tensor.grad),
        )
    kept["random"] = torch.get_rng_state().tolist()
    return kept


@pytest.mark.parametrize("family", ["v8", "26", "segment v8", "rt-detr"])
@pytest.mark.parametrize("error", [None, RuntimeError("the user's layer fails"), KeyboardInterrupt()])
def test_the_model_comes_back_as_it_was(family: str, error: BaseException | None) -> None:
    yolo = seeded(family, end2end=family in DUAL)
    adapter = YOLOAdapter(yolo)
    adapter.model.train()
    features = adapter.features(bus())
    calls: list[Callable[[], object]] = [
        lambda: adapter.detect(bus()),
        lambda: adapter.candidates(bus()),
        lambda: adapter.features(bus(), "model.4"),
        lambda: adapter.features(bus(), "model.2.cv1" if family != "rt-detr" else "model.4.cv1"),
        lambda: adapter.resume(features),
    ]

    def fail(*_: object) -> None:
        if error is not None:
            raise error

    failing: list[nn.Module] = [layers_of(adapter)[2]]
    failing += [part for part in adapter.head.modules() if isinstance(part, nn.Conv2d)]
    hooks = [module.register_forward_hook(fail) for module in failing]
    try:
        before = state(adapter.model)
        for call in calls:
            if error is None:
                call()
            else:
                with pytest.raises(type(error)):
                    call()
            assert state(adapter.model) == before
    finally:
        for hook in hooks:
            hook.remove()
        adapter.model.eval()


def test_half_precision_models_are_read_in_half_and_decoded_in_full() -> None:
    yolo = seeded("v8")
    expected = YOLOAdapter(yolo).candidates(bus())
    try:
        yolo.model.to(torch.bfloat16)
        adapter = YOLOAdapter(yolo)
        found = adapter.candidates(bus())
        assert adapter.prepare(bus()).tensor.dtype == torch.bfloat16
        assert found.boxes.dtype == found.class_scores.dtype == torch.float32
        assert float((found.class_scores - expected.class_scores).abs().mean()) < 0.02
        adapter.detect(bus())
    finally:
        seeded.cache_clear()  # its weights are rounded now


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_layer_in_half_precision_keeps_its_skip_connections_in_the_models_own(precision: str) -> None:
    """Layer 16 is one of three that the head reads; the other two are kept, and were computed under autocast."""
    detector, image = detxai.wrap("scenes-yolo"), generate(0, "local").image
    found = detector.detect(image)[[0]]
    whole, half = (
        detxai.AblationCAM(
            0.1, layers="model.16", ranking="energy", unablated_weights="zero", precision=name, progress=False
        )(detector, image, found)[0]
        for name in ("full", precision)
    )
    assert half.channel_effects is not None
    assert np.corrcoef(whole.values.ravel(), half.values.ravel())[0, 1] > 0.99
