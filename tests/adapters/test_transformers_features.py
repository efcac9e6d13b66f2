"""Features of query detectors, the way back into the detector, and the way back to the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from query_detectors import FAMILIES, SeededDetector, deformable_detr, detr, photo, rf_detr, rt_detr, yolos
from torch import Tensor, nn

import detxai
from detxai.targets import BoxSideTarget, ClassScoreTarget, score_targets

FEW: dict[str, Callable[[], SeededDetector]] = {
    "detr": detr,
    "deformable": deformable_detr,
    "rt-detr": rt_detr,
    "rf-detr": rf_detr,
    "yolos": yolos,
}
INNER = {  # a layer of each kind: maps, maps with masks, tokens
    "detr": ("model.backbone", "model.input_projection", "model.encoder.layers.0"),
    "deformable": ("model.backbone", "model.encoder.layers.0", "model.input_proj.1"),
    "rt-detr": ("model.backbone", "model.encoder.fpn_blocks.0", "model.encoder.aifi.0.layers.0"),
    "rf-detr": ("model.backbone.projector",),
    "yolos": ("vit.encoder.layer.0", "vit.embeddings", "vit.encoder.layer.1.layernorm_after"),
}


def wrapped(own: SeededDetector) -> Any:
    return detxai.wrap(own.model, processor=own.processor)


@pytest.fixture(scope="module", params=FAMILIES)
def detector(request: pytest.FixtureRequest) -> Any:
    return wrapped(FAMILIES[request.param]())


@pytest.fixture(scope="module", params=FEW)
def few(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, wrapped(FEW[request.param]())


def test_resume_with_unchanged_features_is_the_full_pass(detector: Any) -> None:
    images = [photo(60, 90), photo(90, 60, 1)]
    with torch.no_grad():
        full, resumed = detector.candidates(images), detector.resume(detector.features(images))
    assert torch.equal(full.boxes, resumed.boxes)
    assert torch.equal(full.class_scores, resumed.class_scores)


def test_resume_from_an_inner_layer_is_the_full_pass(few: tuple[str, Any]) -> None:
    name, detector = few
    image = photo(60, 90)
    with torch.no_grad():
        full = detector.candidates(image)
        for layer in INNER[name]:
            features = detector.features(image, layer)
            resumed = detector.resume(features)
            assert torch.equal(full.boxes, resumed.boxes), layer
            assert torch.equal(full.class_scores, resumed.class_scores), layer
            changed = features.with_levels({name: level * 0.5 for name, level in features.levels.items()})
            assert not torch.equal(full.class_scores, detector.resume(changed).class_scores), layer


def test_what_lies_before_the_layer_does_not_run_again(few: tuple[str, Any]) -> None:
    name, detector = few
    ran: list[int] = []
    backbone = detector.model.get_submodule("vit.encoder.layer.0.attention" if name == "yolos" else "model.backbone")
    inner: Any = next(module for module in backbone.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    features = detector.features(photo(60, 90))
    own = type(inner).forward

    def counted(tensor: Tensor) -> Tensor:
        ran.append(1)
        return own(inner, tensor)

    inner.forward = counted  # no hook: a hooked module runs
    try:
        detector.candidates(photo(60, 90))
        assert ran
        ran.clear()
        detector.resume(features)
        assert not ran
    finally:
        del inner.forward


def test_versions_of_one_image_resume_as_one_by_one(few: tuple[str, Any]) -> None:
    _, detector = few
    features = detector.features(photo(60, 90))
    name, level = next(iter(features.levels.items()))
    versions = torch.cat([level, level * 0.5, level * 0])
    with torch.no_grad():
        together = detector.resume(features.with_levels({name: versions}))
        for i in range(3):
            alone = detector.resume(features.with_levels({name: versions[i : i + 1]}))
            torch.testing.assert_close(together.class_scores[i], alone.class_scores[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.boxes[i], alone.boxes[0], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("target", [ClassScoreTarget, BoxSideTarget])
def test_gradients_flow_from_every_target_to_the_default_layers(few: tuple[str, Any], target: Any) -> None:
    _, detector = few
    found = detector.detect(photo(60, 90), 0)[:4]
    features = detector.features(photo(60, 90))
    levels = {name: level.clone().requires_grad_() for name, level in features.levels.items()}
    scores = score_targets(target.of(found), detector.resume(features.with_levels(levels)))[:, 0]
    for score in scores:
        gradients = torch.autograd.grad(score, list(levels.values()), retain_graph=True)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


def test_traced_levels_are_the_features_and_carry_the_gradient(few: tuple[str, Any]) -> None:
    """Against the gradient of what the module itself put out, tokens or maps."""
    _, detector = few
    image = photo(60, 90)
    inputs = detector.prepare(image)
    (layer,) = detector.default_layers
    targets = ClassScoreTarget.of(detector.detect(image, 0)[:1])
    levels, candidates = detector.trace(inputs, [layer])
    features = detector.features(image)
    assert all(torch.equal(levels[name], level) for name, level in features.levels.items())
    (score,) = score_targets(targets, candidates)[:, 0]
    found = torch.autograd.grad(score, list(levels.values()))
    raw: list[Any] = []
    hook = detector.model.get_submodule(layer).register_forward_hook(lambda module, given, output: raw.append(output))
    (score,) = score_targets(targets, detector.candidates(inputs))[:, 0]
    hook.remove()
    (output,) = raw
    while isinstance(output, dict) or not isinstance(output[0], Tensor):
        output = output[0]  # of an output object, of a list of maps with their masks
    tensors = [output] if isinstance(output, Tensor) else [part for part in output if part.is_floating_point()]
    expected = list(torch.autograd.grad(score, tensors))
    if expected[0].ndim == 3:
        n_before = 1 if "vit" in layer else 0
        sizes = [level.shape[-2:] for level in levels.values()]
        counts = [height * width for height, width in sizes]
        parts = expected[0][:, n_before : n_before + sum(counts)].split(counts, 1)
        expected = [part.transpose(1, 2).reshape(1, -1, *size) for part, size in zip(parts, sizes, strict=True)]
    for one, other in zip(found, expected, strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


# -- places ----------------------------------------------------------------------------------------------------------


def _receptive_middle(detector: Any, layer: str, level: str, row: int, column: int, image: Any) -> Tensor:
    """(y, x) in input pixels: the middle of what a feature of a convolutional backbone or patch embedding sees.

    By the gradient itself, with every weight 1 and every activation gone, so that each path counts alike.
    """
    inputs = detector.prepare(image)
    tensor = inputs.tensor.clone().requires_grad_()
    levels, _ = detector.trace(type(inputs)(tensor, inputs.geometries, inputs.images), [layer])
    (seen,) = torch.autograd.grad(levels[level][0, :, row, column].sum(), tensor)
    weight = seen[0].abs().sum(0)
    rows, columns = torch.arange(weight.shape[0]) + 0.5, torch.arange(weight.shape[1]) + 0.5
    return torch.stack([(weight.sum(1) * rows).sum(), (weight.sum(0) * columns).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [(60, 90), (90, 50)])
def test_a_planted_token_comes_back_within_its_patch(size: tuple[int, int]) -> None:
    detector = wrapped(yolos())
    layer = "vit.embeddings"
    features = detector.features(photo(*size), layer)
    (geometry,) = features.inputs.geometries
    rows, columns = features.levels[layer].shape[-2:]
    for row, column in ((0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1)):
        planted = torch.zeros(rows, columns)
        planted[row, column] = 1
        peak = _peak(geometry.map_to_image(planted))
        y, x = peak[0] * geometry.scale[0], peak[1] * geometry.scale[1]
        assert row * 16 <= y <= (row + 1) * 16
        assert column * 16 <= x <= (column + 1) * 16
        middle = _receptive_middle(detector, layer, layer, row, column, photo(*size))
        assert abs(float(middle[0]) - y) < 8
        assert abs(float(middle[1]) - x) < 8


@pytest.mark.parametrize("name", ["deformable", "rt-detr"])
def test_a_planted_feature_comes_back_at_its_reference_point(name: str) -> None:
    """Deformable attention takes feature i of n to lie at (i + 0.5) / n of the image (of what of it is no padding)."""
    detector = wrapped(FEW[name]())
    for size in ((60, 90), (90, 50)):
        features = detector.features(photo(*size))
        (geometry,) = features.inputs.geometries
        for level in features.levels.values():
            rows, columns = level.shape[-2:]
            for row, column in ((0, 0), (rows // 2, columns // 2)):
                planted = torch.zeros(rows, columns)
                planted[row, column] = 1
                peak = _peak(geometry.map_to_image(planted))
                at = torch.tensor([(row + 0.5) / rows * size[0], (column + 0.5) / columns * size[1]])
                cell = torch.tensor([size[0] / rows, size[1] / columns])
                assert bool(((peak - at).abs() <= 0.5 + 0.25 * cell).all()), (name, size, row, column)


def test_padding_is_cut_away() -> None:
    """A planted row of the padded part of a batch reaches no pixel; one of the image reaches its own."""
    detector = wrapped(detr())
    inputs = detector.prepare([photo(60, 90), photo(90, 60, 1)])
    assert inputs.geometries[0].resized_size != inputs.geometries[0].input_size
    height, width = inputs.geometries[0].input_size
    shown = inputs.geometries[0].resized_size[0]
    pixels = torch.zeros(height, width)
    pixels[shown:] = 1
    assert float(inputs.geometries[0].map_to_image(pixels).abs().max()) == 0
    pixels[shown // 2, width // 3] = 1
    y, x = _peak(inputs.geometries[0].map_to_image(pixels))
    scale = inputs.geometries[0].scale
    assert abs(float(y) - (shown // 2 + 0.5) / scale[0]) <= 1
    assert abs(float(x) - (width // 3 + 0.5) / scale[1]) <= 1


def _peak(values: Tensor) -> Tensor:
    """(y, x) of the middle of what is highest, pixels."""
    return (values >= values.max() - 1e-6).nonzero().float().mean(0) + 0.5
