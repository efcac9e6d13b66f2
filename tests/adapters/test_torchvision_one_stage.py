"""The adapters of RetinaNet, FCOS and SSD say what the model says, and give it back as it was."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from model_snapshots import StopError, assert_same, raising, snapshot
from one_stages import BUILDERS, N_CLASSES, small
from torch import Tensor, nn
from torchvision.models import detection as tv

import detxai
from detxai.adapters.families import FAMILIES
from detxai.adapters.loading import load_detector
from detxai.adapters.network import module_of
from detxai.adapters.torchvision.fcos import FCOSAdapter
from detxai.adapters.torchvision.retinanet import RetinaNetAdapter
from detxai.adapters.torchvision.ssd import SSDAdapter
from detxai.cli import main
from detxai.targets import BoxScoreTarget, BoxSideTarget, ClassScoreTarget, SimilarityTarget, score_targets

ONE_OF_EACH = ("retinanet", "fcos", "ssd", "ssdlite")


@pytest.fixture(params=[name for name in BUILDERS if "narrow" not in name], scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    return small(request.param, seed=1)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (150, 41), (7, 5), (1, 40)])
def test_detect_is_the_models_own_answer(model: Any, height: int, width: int) -> None:
    image = photo(0, height, width)
    found = detxai.wrap(model).detect(image, score_threshold=0)
    with torch.no_grad():
        (own,) = model([image])
    assert torch.equal(found.boxes, own["boxes"])
    assert torch.equal(found.scores, own["scores"])
    assert torch.equal(found.labels, own["labels"])


def distance_to_candidates(candidates: detxai.Candidates, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Of each detection of one image, to the nearest candidate."""
    placed, probability = candidates.of_labels(labels)
    return ((placed[:, 0] - boxes[:, None]).abs().amax(-1) + (probability[:, 0] - scores[:, None]).abs()).amin(1)


def test_the_candidates_of_images_of_several_sizes_contain_every_detection(model: Any) -> None:
    detector, images = detxai.wrap(model), [photo(2, 60, 90), photo(3, 90, 60), photo(4, 30, 31)]
    with torch.no_grad():
        candidates, answers = detector.candidates(images), model(images)
    assert sum(len(answer["boxes"]) for answer in answers) >= 30
    for of_image, answer in zip(candidates, answers, strict=True):
        if len(answer["boxes"]):
            assert float(distance_to_candidates(of_image, **answer).max()) == 0


def test_all_anchors_are_candidates_whatever_the_threshold(model: Any) -> None:
    strict = copy.deepcopy(model)
    strict.score_thresh, strict.topk_candidates, strict.detections_per_img = 0.9, 1, 1
    with torch.no_grad():
        one, other = (detxai.wrap(each).candidates(photo(2)) for each in (model, strict))
    assert torch.equal(one.class_scores, other.class_scores)
    assert torch.equal(one.boxes, other.boxes)
    assert one.boxes.shape[1] == sum(len(a) for a in model.anchor_generator(*_of_the_model(model, photo(2))))


def _of_the_model(model: Any, image: Tensor) -> tuple[Any, list[Tensor]]:
    prepared, _ = model.transform([image])
    levels = model.backbone(prepared.tensors)
    return prepared, [levels] if isinstance(levels, Tensor) else list(levels.values())


def test_resume_with_unchanged_features_is_the_full_pass(model: Any) -> None:
    detector, images = detxai.wrap(model), [photo(3), photo(4, 100, 100)]
    inner = next(n for n, m in model.backbone.named_modules(prefix="backbone") if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        full = detector.candidates(images)
        for layers in (None, inner):
            resumed = detector.resume(detector.features(images, layers))
            assert torch.equal(full.boxes, resumed.boxes)
            assert torch.equal(full.class_scores, resumed.class_scores)


def test_many_versions_of_one_image_resume_as_one_by_one(model: Any) -> None:
    detector = detxai.wrap(model)
    features = detector.features(photo(5))
    name, level = next(iter(features.levels.items()))
    versions = torch.cat([level, level * 0.5, level * 0])
    with torch.no_grad():
        together = detector.resume(features.with_levels({name: versions}))
        for i in range(3):
            alone = detector.resume(features.with_levels({name: versions[i : i + 1]}))
            torch.testing.assert_close(together.class_scores[i], alone.class_scores[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.boxes[i], alone.boxes[0], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("target", [ClassScoreTarget, BoxScoreTarget, SimilarityTarget, BoxSideTarget])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_gradients_flow_from_every_target_to_the_default_layers(name: str, target: Any) -> None:
    model = small(name)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    detector = detxai.wrap(model)
    found = detector.detect(photo(6), 0)[:8]
    features = detector.features(photo(6))
    levels = {name: level.clone().requires_grad_() for name, level in features.levels.items()}
    scores = score_targets(target.of(found), detector.resume(features.with_levels(levels)))[:, 0]
    reached = 0
    for score in scores[scores > 0]:
        gradients = torch.autograd.grad(
            score, list(levels.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert all(bool(g.isfinite().all()) for g in gradients)
        reached += sum(float(g.abs().sum()) for g in gradients) > 0
    assert reached >= min(4, len(found))


def test_a_score_of_zero_has_finite_gradients() -> None:
    """FCOS takes a square root, whose slope at 0 is infinite."""
    logits = torch.tensor([[-200.0, 0.0]], requires_grad=True)
    scores = FCOSAdapter(small("fcos")).class_scores(logits, {"bbox_ctrness": torch.tensor([[-200.0]])})
    assert scores.tolist() == [[0.0, 0.0]]
    scores.sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "ssd with steps"])
@pytest.mark.parametrize(("height", "width"), [(60, 90), (150, 41), (200, 200)])
def test_a_planted_feature_comes_back_where_the_models_anchors_lie(name: str, height: int, width: int) -> None:
    """At the middle of a cell's anchors in the input, brought to the image; to the pixel."""
    model = small(name)
    features = detxai.wrap(model).features(photo(0, height, width))
    (geometry,) = features.inputs.geometries
    (anchors,) = model.anchor_generator(*_of_the_model(model, photo(0, height, width)))
    start, counts = 0, list(model.anchor_generator.num_anchors_per_location())
    for level in features.levels.values():
        rows, columns = level.shape[-2:]
        per_cell = counts.pop(0)
        boxes = anchors[start : start + rows * columns * per_cell].reshape(rows, columns, per_cell, 4)
        start += rows * columns * per_cell
        for row, column in {(0, 0), (rows // 2, columns // 2), (rows // 3, columns - 1)}:
            x = float(boxes[row, column, 0, 0::2].mean()) / geometry.scale[1]
            y = float(boxes[row, column, 0, 1::2].mean()) / geometry.scale[0]
            if not (0 <= x < width and 0 <= y < height):
                continue  # a cell in the padding has no pixel
            planted = torch.zeros(rows, columns)
            planted[row, column] = 1
            values = geometry.map_to_image(planted)
            peak = (values >= values.max() - 1e-6).nonzero() + 0.5  # a plateau beyond the outermost middles
            assert float((peak - torch.tensor([y, x])).abs().amax(1).min()) <= 1


CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "detect": lambda detector, image, found: detector.detect(image),
    "candidates": lambda detector, image, found: detector.candidates(image),
    "an inner layer": lambda detector, image, found: detector.resume(detector.features(image, ["backbone.blocks.0"])),
    "eigen_cam": lambda detector, image, found: detxai.explain(detector, image, "eigen_cam"),
    "layer_cam": lambda detector, image, found: detxai.explain(detector, image, "layer_cam", found),
    "ablation_cam": lambda detector, image, found: detxai.explain(
        detector, image, "ablation_cam", found, ratio_channels_to_ablate=0.2
    ),
}


@pytest.mark.parametrize("error", [None, StopError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_model_comes_back_as_it_was(name: str, error: type[BaseException] | None) -> None:
    model, image = small(name), photo(0)
    with torch.random.fork_rng(devices=[]):
        found = detxai.wrap(small(name)).detect(image, 0)[:2]
    model.train()
    model.backbone.blocks[1].eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 > 0)
        parameter.grad = torch.full_like(parameter, 0.5) if i % 2 else None
    detector = detxai.wrap(model)
    for call in CALLS.values():
        places = [model.head.regression_head, model.backbone.blocks[2]] if error else []
        handles = [place.register_forward_hook(raising(error)) for place in places if error]
        before = snapshot(model)
        if error is None:
            call(detector, image, found)
        else:
            with pytest.raises(error):
                call(detector, image, found)
        assert_same(before, snapshot(model))
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_method_explains_it(name: str) -> None:
    detector, image = detxai.wrap(small(name)), photo(1, 40, 60)
    found = detector.detect(image, 0)[:2]
    methods = {
        "layer_cam": {},
        "eigen_cam": {},
        "ablation_cam": {},
        "d_rise": {"n_masks": 60},
        "pixel_evidence": {"max_passes": 64},
        "region_shapley": {"max_passes": 64},
    }
    for method, settings in methods.items():
        explanations = detxai.explain(detector, image, method, found, **settings)
        assert len(explanations) == (1 if method == "eigen_cam" else 2)
        for explanation in explanations:
            assert explanation.values.shape == (40, 60)
            assert np.isfinite(explanation.values).all()
            assert np.ptp(explanation.values) > 0


def test_what_one_pass_computed_gives_the_same_answers(model: Any) -> None:
    detector, image = detxai.wrap(model), photo(1)
    found, candidates = detector.detect(image, 0), detector.candidates(image)
    features = detector.features(image)
    for _ in range(2):
        assert torch.equal(detector.detections(features, 0).boxes, found.boxes)
        assert torch.equal(detector.candidates(features).class_scores, candidates.class_scores)
    both = detector.detections_and_candidates(image, 0)
    assert torch.equal(both[0].boxes, found.boxes)
    assert torch.equal(both[1].class_scores, candidates.class_scores)
    explained = detxai.explain(detector, image, "layer_cam", score_threshold=0.1)
    assert len(explained) == int((found.scores > 0.1).sum())


def test_half_precision() -> None:
    detector = detxai.wrap(small("ssdlite").bfloat16())
    assert detector.candidates(photo(1)).class_scores.dtype == torch.bfloat16
    found = detxai.wrap(small("ssdlite")).detect(photo(1), 0)[:1]  # torchvision's own suppression takes no bfloat16
    (explanation,) = detxai.explain(detector, photo(1), "ablation_cam", found)
    assert np.isfinite(explanation.values).all()


# -- names, files, refusals ------------------------------------------------------------------------------------------


def test_names_of_the_classes() -> None:
    assert detxai.wrap(small("retinanet"), class_names=["a", "b", "c", "d"]).class_names[0] == "a"
    assert detxai.wrap(small("ssd"), class_names=["-", "b", "c", "d"]).class_names[3] == "d"
    with pytest.raises(
        ValueError, match=r"class_names must .+4 classes, numbered from 0 .the background.; got 3 names"
    ):
        detxai.wrap(small("ssd"), class_names=["b", "c", "d"])
    with pytest.raises(ValueError, match=r"class_names must .+4 classes, numbered from 0; got 3 names"):
        detxai.wrap(small("fcos"), class_names=["b", "c", "d"])
    assert detxai.wrap(small("fcos")).class_names == {}
    model = tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    assert detxai.wrap(model).class_names[18] == "dog"


@pytest.mark.parametrize("adapter", [RetinaNetAdapter, FCOSAdapter, SSDAdapter])
def test_a_model_of_another_family_is_refused(adapter: Any) -> None:
    with pytest.raises(TypeError, match=r"model must be a torchvision .+, got FasterRCNN"):
        adapter(small_faster_rcnn())


@pytest.mark.parametrize("name", [n for n in BUILDERS if "one tensor" not in n])
def test_a_state_dict_says_how_many_classes_it_has(name: str) -> None:
    model = small(name)
    (family,) = [family for family in FAMILIES if family.recognises(model)]
    assert family.n_classes(model.state_dict()) == N_CLASSES
    assert family.n_classes(small_faster_rcnn().backbone.state_dict()) is None


def test_a_builder_by_name_with_a_file_of_weights(tmp_path: Path) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    with torch.random.fork_rng(devices=[]):
        own = tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6).eval()
    torch.save(own.state_dict(), tmp_path / "own.pth")
    detector = load_detector(name, weights=tmp_path / "own.pth")
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), module_of(detector).state_dict().values()))
    torch.save(small_faster_rcnn().state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"weights: .*other.pth is not a state_dict of {name}"):
        load_detector(name, weights=tmp_path / "other.pth")


def _own_scores(model: Any) -> None:
    """As somebody's temperature in the post-processing."""
    own = model.postprocess_detections

    def postprocess(head_outputs: Any, *given: Any) -> Any:
        logits = head_outputs["cls_logits"]
        cooler = [part / 3 for part in logits] if isinstance(logits, list) else logits / 3
        return own({**head_outputs, "cls_logits": cooler}, *given)

    model.postprocess_detections = postprocess


def _own_forward(model: Any) -> None:
    kind = type(model)

    def forward(self: Any, images: Any, targets: Any = None) -> Any:
        return [{**found, "boxes": found["boxes"] * 0.8} for found in kind.forward(self, images, targets)]

    model.__class__ = type("Own", (kind,), {"forward": forward})


def _head_without_boxes(model: Any) -> None:
    model.head.register_forward_hook(lambda module, given, output: {"cls_logits": output["cls_logits"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_own_scores, "model: model.postprocess_detections is not the family's own"),
        (_own_forward, "model: model.forward is not the family's own"),
        (_head_without_boxes, "model: its head must output .*, got no bbox_regression"),
    ],
)
@pytest.mark.parametrize("name", ["retinanet", "fcos", "ssdlite"])
def test_a_model_that_answers_in_its_own_way_is_refused(name: str, change: Any, said: str) -> None:
    model = small(name)
    change(model)
    with pytest.raises(ValueError, match=said):
        detxai.wrap(model).candidates(photo(0))


def test_a_model_as_torchvision_makes_it_has_no_changed_parts(model: Any) -> None:
    assert not detxai.wrap(model).changed_parts()


def test_an_override_that_changes_nothing_is_taken() -> None:
    model = small("fcos")
    own = model.postprocess_detections
    model.postprocess_detections = lambda *given: own(*given)
    assert len(detxai.wrap(model).candidates(photo(0))) == 1


def test_the_command_lists_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["families"]
    assert [row["family"] for row in rows] == [family.name for family in FAMILIES]
    of = {row["family"]: row for row in rows}
    assert {name for name, row in of.items() if not row["features"]} == {"exported", "sahi", "function"}
    assert of["yolo"]["extra"] == "yolo"
    assert main(["families"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{family.name}: {family.takes}" in shown for family in FAMILIES)
    for name in ("retinanet", "fcos", "ssd", "ssdlite"):
        assert detxai.wrap(small(name)).family in of
