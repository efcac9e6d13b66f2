"""The Faster R-CNN adapter says what the model says, and gives it back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from model_snapshots import StopError, assert_same, raising, snapshot
from torch import nn
from torchvision.models import detection as tv

import detxai
from detxai.adapters.network import module_of
from detxai.adapters.torchvision.two_stage import FasterRCNNAdapter
from detxai.targets import BoxScoreTarget, BoxSideTarget, ClassScoreTarget, SimilarityTarget, score_targets

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "three levels, 16 channels": small_faster_rcnn,
    "one level": lambda: small_faster_rcnn(n_levels=1, pooled=1),
    "five levels, 24 channels": lambda: small_faster_rcnn(n_levels=5, width=24),
    "mobilenet 320": lambda: tv.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.01, min_size=128, max_size=160
    ),
    "mask": lambda: _resnet18(tv.MaskRCNN, rpn_post_nms_top_n_test=12),  # their further heads take long
    "keypoint": lambda: _resnet18(tv.KeypointRCNN, num_classes=2, num_keypoints=3, rpn_post_nms_top_n_test=12),
}


def _resnet18(kind: Any, **settings: Any) -> nn.Module:
    backbone = tv.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return kind(
        backbone,
        **{"num_classes": 4, "min_size": 96, "max_size": 128, "box_score_thresh": 0.01, "rpn_post_nms_top_n_test": 60}
        | settings,
    )


@pytest.fixture(params=BUILDERS, scope="module")
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BUILDERS[request.param]().eval()


@pytest.mark.parametrize(("height", "width"), [(90, 130), (200, 61), (7, 5), (1, 40)])
def test_detect_is_the_models_own_answer(model: nn.Module, height: int, width: int) -> None:
    image = photo(0, height, width)
    found = detxai.wrap(model).detect(image, score_threshold=0)
    with torch.no_grad():
        (own,) = model([image])
    assert torch.equal(found.boxes, own["boxes"])
    assert torch.equal(found.scores, own["scores"])
    assert torch.equal(found.labels, own["labels"])


def test_candidates_contain_every_detection(model: nn.Module) -> None:
    detector, image = detxai.wrap(model), photo(2)
    found = detector.detect(image, score_threshold=0)
    with torch.no_grad():
        candidates = detector.candidates(image)
        matched = score_targets(ClassScoreTarget.of(found, reach=0), candidates)[:, 0]
    assert len(found) > 0
    boxes, scores = candidates.of_labels(found.labels)
    nearest = (boxes[:, 0] - found.boxes[:, None]).abs().amax(-1) + (scores[:, 0] - found.scores[:, None]).abs()
    assert nearest.amin(1).max() < 1e-3
    assert (matched >= found.scores - 1e-5).all()


def test_resume_with_unchanged_features_is_the_full_pass(model: nn.Module) -> None:
    detector = detxai.wrap(model)
    images = [photo(3), photo(4, 100, 100)]
    with torch.no_grad():
        full = detector.candidates(images)
        resumed = detector.resume(detector.features(images))
    assert torch.equal(full.boxes, resumed.boxes)
    assert torch.equal(full.class_scores, resumed.class_scores)


def test_resume_from_an_inner_layer(model: nn.Module) -> None:
    detector, image = detxai.wrap(model), photo(3)
    layer = next(
        n for n, m in model.get_submodule("backbone").named_modules(prefix="backbone") if isinstance(m, nn.Conv2d)
    )
    with torch.no_grad():
        features = detector.features(image, layer)
        assert torch.equal(detector.resume(features).boxes, detector.candidates(image).boxes)


def test_a_change_of_an_inner_layer_reaches_the_candidates() -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), photo(3)
    features = detector.features(image, "backbone.blocks.1.0")
    level = features.levels["backbone.blocks.1.0"]
    with torch.no_grad():
        changed = detector.resume(features.with_levels({"backbone.blocks.1.0": level * 0}))
        assert not torch.equal(changed.class_scores, detector.candidates(image).class_scores)


def test_many_versions_of_one_image_resume_as_one_by_one() -> None:
    detector, image = detxai.wrap(small_faster_rcnn()), photo(5)
    features = detector.features(image)
    level = features.levels["backbone:fine"]
    versions = torch.cat([level, level * 0.5, level * 0])
    with torch.no_grad():
        together = detector.resume(features.with_levels({"backbone:fine": versions}))
        for i in range(3):
            alone = detector.resume(features.with_levels({"backbone:fine": versions[i : i + 1]}))
            n = alone.boxes.shape[1]
            torch.testing.assert_close(together.class_scores[i, :n], alone.class_scores[0], atol=1e-5, rtol=0)
            assert float(together.class_scores[i, n:].abs().sum()) == 0


@pytest.mark.parametrize("target", [ClassScoreTarget, BoxScoreTarget, SimilarityTarget, BoxSideTarget])
def test_gradients_flow_from_every_target_to_the_default_layers(target: Any) -> None:
    model = small_faster_rcnn()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    detector, image = detxai.wrap(model), photo(6)
    found = detector.detect(image, 0)
    features = detector.features(image)
    levels = {name: level.clone().requires_grad_() for name, level in features.levels.items()}
    scores = score_targets(target.of(found), detector.resume(features.with_levels(levels)))[:, 0]
    for score in scores[scores > 0]:  # a side clipped to the image's edge at 0 has no gradient to give
        gradients = torch.autograd.grad(
            score, list(levels.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert all(bool(g.isfinite().all()) for g in gradients)
        assert sum(float(g.abs().sum()) for g in gradients) > 0


@pytest.mark.parametrize(("height", "width"), [(90, 130), (200, 61), (33, 160), (400, 400)])
def test_a_planted_feature_comes_back_where_the_model_takes_it_to_lie(height: int, width: int) -> None:
    """torchvision's anchors and RoIAlign put cell i at i * stride; to the pixel, which is less than half a cell."""
    detector = detxai.wrap(small_faster_rcnn(n_levels=5, width=8))
    features = detector.features(photo(0, height, width))
    geometry = features.inputs.geometries[0]
    for level in features.levels.values():
        rows, columns = level.shape[-2:]
        stride = 2 ** round(np.log2(geometry.input_size[0] / rows))
        for row, column in {(0, 0), (rows // 2, columns // 2), (rows // 3, columns - 1)}:
            place = row * stride / geometry.scale[0], column * stride / geometry.scale[1]
            if place[0] > height - 1 or place[1] > width - 1:
                continue  # a cell in the padding has no pixel
            planted = torch.zeros(rows, columns)
            planted[row, column] = 1
            values = geometry.map_to_image(planted)
            peak = divmod(int(values.argmax()), width)
            assert abs(peak[0] + 0.5 - place[0]) <= 1
            assert abs(peak[1] + 0.5 - place[1]) <= 1


def test_a_bright_pixel_lights_the_map_at_its_place() -> None:
    """Through real strided convolutions: the strongest feature maps back to the pixel that caused it."""
    model = small_faster_rcnn(n_levels=2, width=8, min_size=128, max_size=192)
    first = model.backbone.blocks[0][0]
    with torch.no_grad():
        first.weight.fill_(0.02)
        first.bias.fill_(6.0)  # above the saturated end of the activation
    detector = detxai.wrap(model)
    for row, column in [(40, 60), (101, 33), (64, 150)]:
        image = torch.zeros(3, 128, 192)
        image[:, row, column] = 1
        dark = detector.features(torch.zeros(3, 128, 192)).levels["backbone:fine"]
        features = detector.features(image)
        change = (features.levels["backbone:fine"] - dark).abs().sum(1)[0]
        values = features.inputs.geometries[0].map_to_image(change)
        peak = divmod(int(values.argmax()), 192)
        assert max(abs(peak[0] - row), abs(peak[1] - column)) <= 2  # half a cell of 4


@pytest.mark.parametrize("error", [None, StopError, KeyboardInterrupt])
def test_the_model_comes_back_as_it_was(error: type[BaseException] | None) -> None:
    model = small_faster_rcnn()
    model.train()
    model.backbone.blocks[1].eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 > 0)
        parameter.grad = torch.full_like(parameter, 0.5) if i % 2 else None
    detector, image = detxai.wrap(model), photo(0)
    with torch.random.fork_rng(devices=[]):
        found = detxai.wrap(small_faster_rcnn()).detect(image, 0)[:2]
    calls: list[Callable[[], Any]] = [
        lambda: detector.detect(image),
        lambda: detector.candidates(image),
        lambda: detector.resume(detector.features(image, ["backbone.blocks.0"])),
        lambda: detxai.explain(detector, image, "eigen_cam"),
        lambda: detxai.explain(detector, image, "ablation_cam", found, ratio_channels_to_ablate=0.2),
    ]
    for call in calls:
        fail = model.roi_heads.box_head.register_forward_hook(raising(error)) if error else None
        deep = model.backbone.blocks[2].register_forward_hook(raising(error)) if error else None
        before = snapshot(model)
        if error is None:
            call()
        else:
            with pytest.raises(error):
                call()
        assert_same(before, snapshot(model))
        for handle in (fail, deep):
            if handle is not None:
                handle.remove()


def test_double_precision_and_class_names() -> None:
    model = small_faster_rcnn().double()
    detector = detxai.wrap(model, class_names=["-", "a", "b", "c", "d"])
    found = detector.detect(photo(1), 0)
    assert detector.candidates(photo(1)).boxes.dtype == torch.float64
    assert found.name(0) in "abcd"


def test_coco_names_for_torchvisions_own_number_of_classes() -> None:
    assert FasterRCNNAdapter(small_faster_rcnn(n_classes=91)).class_names[18] == "dog"
    assert FasterRCNNAdapter(small_faster_rcnn(n_classes=4)).class_names == {}


def test_an_image_is_an_image_however_it_comes(tmp_path: Any) -> None:
    pixels = (photo(7).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(pixels).save(path)
    detector = detxai.wrap(small_faster_rcnn())
    answers = [
        detector.detect(image, 0).boxes
        for image in (
            pixels,
            PIL.Image.fromarray(pixels),
            path,
            str(path),
            torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        )
    ]
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_wrapping_copies_nothing_and_looks_through_data_parallel() -> None:
    model = small_faster_rcnn()
    assert detxai.wrap(nn.DataParallel(model)).model is model
    detector = detxai.wrap(model)
    assert detxai.wrap(detector) is detector
    reference = copy.deepcopy(model.state_dict())
    detector.detect(photo(0))
    assert all(torch.equal(v, reference[k]) for k, v in model.state_dict().items())


def test_real_cells(shared_data: Any) -> None:
    """A trained detector on a real photo: the model's own answer, and candidates that contain it."""
    detector = detxai.wrap(f"{shared_data / 'frcnn_bccd.py'}:build")
    for photo_path in sorted((shared_data / "bccd" / "images").glob("*.jpg"))[:3]:
        found = detector.detect(photo_path, 0)
        pixels = torch.from_numpy(np.array(PIL.Image.open(photo_path).convert("RGB"))).permute(2, 0, 1) / 255
        with torch.no_grad():
            (own,) = module_of(detector)([pixels])
            scores = score_targets(ClassScoreTarget.of(found, reach=0), detector.candidates(photo_path))[:, 0]
        assert torch.equal(found.boxes, own["boxes"])
        assert len(found) > 5
        assert (scores >= found.scores - 1e-5).all()


def test_the_inputs_of_features_are_the_image() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    with torch.no_grad():
        again = detector.candidates(detector.features(photo(1)).inputs)
        assert torch.equal(again.class_scores, detector.candidates(photo(1)).class_scores)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "c", "d"], "5 classes, numbered from 0 .the background.; got 4 names"),
        (["-", "a", "b", "c", "d", "e"], "got 6 names"),
        ({1: "a", 5: "b"}, r"got labels \[5\]"),
        ({0: "a", 1: "b", 2: "c", 3: "d"}, "got names for 0 to 3 alone"),
    ],
)
def test_class_names_of_another_number_of_classes_are_refused(names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"class_names must .+{message}"):
        detxai.wrap(small_faster_rcnn(), class_names=names)
    assert detxai.wrap(small_faster_rcnn(), class_names={2: "b"}).class_names == {2: "b"}
