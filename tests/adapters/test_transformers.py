"""Query detectors of transformers: the same answers as the vendor's own calls, for every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from query_detectors import (
    DETR_SIZE,
    FAMILIES,
    SQUARE,
    SeededDetector,
    deformable_detr,
    detr,
    photo,
    rf_detr,
    rt_detr,
    segmenting_detr,
    transformers,
    yolos,
)

import detxai


@pytest.fixture(scope="module", params=FAMILIES)
def own(request: pytest.FixtureRequest) -> SeededDetector:
    return FAMILIES[request.param]()


def wrapped(own: SeededDetector) -> Any:
    return detxai.wrap(own.model, processor=own.processor)


def test_detections_are_the_vendors_own(own: SeededDetector) -> None:
    _assert_same_detections(own, photo(60, 90), [0.0])


def test_a_segmenter_with_boxes_is_a_detector_too() -> None:
    own, image = segmenting_detr(), photo(60, 90)
    _assert_same_detections(own, image, [0.0])
    detector = wrapped(own)
    with torch.no_grad():
        assert torch.equal(detector.resume(detector.features(image)).boxes, detector.candidates(image).boxes)


@pytest.mark.parametrize("make", [detr, rt_detr, deformable_detr, yolos], ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(70, 50), (7, 5), (3, 12)])
def test_detections_in_odd_images_are_the_vendors_own(make: Any, size: tuple[int, int]) -> None:
    _assert_same_detections(make(), photo(*size), [0.0, 0.5])


def _assert_same_detections(own: SeededDetector, image: Any, shares: list[float]) -> None:
    every = own.own_answer(image)
    for share in shares:
        least = float(every["scores"].quantile(share)) if share else 0.0
        kept = every["scores"] > least
        expected = {name: values[kept] for name, values in every.items()}
        found = wrapped(own).detect(image, least)
        assert len(found) == len(expected["boxes"]) > 0
        torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-4)
        torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
        assert torch.equal(found.labels, expected["labels"])


def test_every_detection_is_a_candidate_with_its_score(own: SeededDetector) -> None:
    image = photo(60, 90)
    found = own.own_answer(image)
    with torch.no_grad():
        candidates = wrapped(own).candidates(image)
    boxes, scores = candidates.of_labels(found["labels"])
    off = (boxes[:, 0] - found["boxes"][:, None]).abs().amax(-1) + (scores[:, 0] - found["scores"][:, None]).abs()
    assert float(off.amin(1).max()) < 1e-4
    # nothing scores higher than what the vendor answers with
    assert float(candidates.class_scores.max()) == pytest.approx(float(found["scores"].max()), abs=1e-5)


def test_prepared_images_are_the_processors(own: SeededDetector) -> None:
    images = [photo(60, 90), photo(90, 60, 1)] if own.processor.do_pad else [photo(60, 90), photo(60, 90, 1)]
    expected = own.processor(images=images, return_tensors="pt")
    inputs = wrapped(own).prepare(images)
    assert torch.equal(inputs.tensor, expected["pixel_values"])
    for geometry, image in zip(inputs.geometries, images, strict=True):
        assert geometry.image_size == image.shape[:2]
    if "pixel_mask" in expected:
        shown = [(int(mask[:, 0].sum()), int(mask[0].sum())) for mask in expected["pixel_mask"]]
        assert [geometry.resized_size for geometry in inputs.geometries] == shown


def test_a_batch_of_mixed_sizes_is_scored_as_the_vendor_scores_it(own: SeededDetector) -> None:
    images = [photo(60, 90), photo(90, 60, 1)]
    inputs = own.processor(images=images, return_tensors="pt")
    with torch.no_grad():
        outputs = own.model(**inputs)
    sizes = [image.shape[:2] for image in images]
    expected = own.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    with torch.no_grad():
        candidates = wrapped(own).candidates(images)
    for image, found in enumerate(expected):
        boxes, scores = candidates[image].of_labels(found["labels"])
        off = (boxes[:, 0] - found["boxes"][:, None]).abs().amax(-1)
        assert float((off + (scores[:, 0] - found["scores"][:, None]).abs()).amin(1).max()) < 1e-4


@pytest.mark.parametrize("make", [detr, rt_detr, deformable_detr, yolos], ids=lambda make: make.__name__)
def test_the_pillow_backend_is_followed_too(make: Any) -> None:
    own = make()
    kind = getattr(transformers, f"{type(own.processor).__name__}Pil", None)
    if kind is None:
        pytest.skip("this transformers prepares with Pillow alone")
    size = SQUARE if make is rt_detr else DETR_SIZE
    pillow = replace(own, processor=kind(size=size))
    image = photo(60, 90)
    expected = pillow.processor(images=image, return_tensors="pt")["pixel_values"]
    assert torch.equal(wrapped(pillow).prepare(image).tensor, expected)
    assert not torch.equal(wrapped(own).prepare(image).tensor, expected)  # they differ, and each is followed
    assert torch.equal(wrapped(pillow).detect(image, 0.0).boxes, pillow.own_answer(image)["boxes"])


class Silent(transformers.YolosImageProcessor):
    """Pads, and does not say where, as YOLOS' did before."""

    def preprocess(self, *given: Any, **named: Any) -> Any:
        found = super().preprocess(*given, **named)
        found.pop("pixel_mask", None)
        return found


def test_padding_without_a_mask_is_found() -> None:
    own = yolos()
    images = [photo(60, 90), photo(90, 60, 1)]
    silent, saying = (
        wrapped(replace(own, processor=kind(size=DETR_SIZE))).prepare(images)
        for kind in (Silent, transformers.YolosImageProcessor)
    )
    assert silent.geometries == saying.geometries
    assert silent.geometries[0].resized_size != silent.geometries[1].resized_size
    assert torch.equal(silent.tensor, saying.tensor)


def test_a_float_image_is_prepared_as_the_same_8_bit_one() -> None:
    for own in (detr(), rt_detr()):
        image = photo(60, 90)
        from_bytes = wrapped(own).prepare(image).tensor
        from_floats = wrapped(own).prepare(torch.from_numpy(image).permute(2, 0, 1) / 255).tensor
        # torchvision rounds what it resizes to 8 bits where that is what it was given
        assert float((from_bytes - from_floats).abs().max()) < 1 / 255 / min(own.processor.image_std)


@pytest.mark.parametrize("make", [detr, rt_detr, rf_detr], ids=lambda make: make.__name__)
def test_a_saved_folder_answers_like_the_model(make: Any, tmp_path: Path) -> None:
    own = make()
    own.model.save_pretrained(tmp_path)
    own.processor.save_pretrained(tmp_path)
    image = photo(60, 90)
    found, expected = detxai.wrap(tmp_path).detect(image, 0.0), wrapped(own).detect(image, 0.0)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)


def test_the_processor_saved_beside_the_weights_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = detr()
    own.model.save_pretrained(tmp_path)
    loaded = transformers.DetrForObjectDetection.from_pretrained(tmp_path)
    found: Any = detxai.wrap(loaded)
    assert found.processor.size.shortest_edge == 800
    assert "holds no image processor: images are prepared as a DetrImageProcessor does" in caplog.text
    own.processor.save_pretrained(tmp_path)
    found = detxai.wrap(loaded)
    assert found.processor.size.shortest_edge == 64
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"processor: the one saved in .* does not load"):
        detxai.wrap(loaded)


def test_every_family_has_a_processor_of_its_own(own: SeededDetector) -> None:
    detector: Any = detxai.wrap(own.model)
    kinds = [type(each).__name__.removesuffix("Fast") for each in (detector.processor, own.processor)]
    assert kinds[0] == kinds[1]
    assert detector.scoring is wrapped(own).scoring


def test_without_a_processor_the_familys_own_is_taken() -> None:
    fixed = rt_detr(anchor_image_size=[64, 96])
    assert detxai.wrap(fixed.model).prepare(photo(40, 30)).tensor.shape[-2:] == (64, 96)
    assert detxai.wrap(rf_detr().model).prepare(photo(40, 30)).tensor.shape[-2:] == (64, 64)
    own = detxai.wrap(detr().model)
    expected = transformers.DetrImageProcessor()(images=photo(40, 30), return_tensors="pt")["pixel_values"]
    assert torch.equal(own.prepare(photo(40, 30)).tensor, expected)


def test_class_names_are_the_models_own_or_the_callers() -> None:
    own = detr(id2label={0: "cup", 1: "dog", 2: "car", 3: "bus", 4: "hat"}, label2id={})
    assert wrapped(own).class_names[3] == "bus"
    assert detxai.wrap(own.model, class_names=list("abcde")).class_names[1] == "b"
    with pytest.raises(ValueError, match="class_names must name each"):
        detxai.wrap(own.model, class_names=["only one"])


def test_a_target_finds_its_box_whatever_the_order_of_the_queries() -> None:
    """Two-stage detectors choose their queries anew for each image: the number of a query means nothing."""
    detector = wrapped(rt_detr())
    image = photo(60, 90)
    targets = detxai.targets.ClassScoreTarget.of(detector.detect(image, 0.0)[:3])
    candidates = detector.candidates(image)
    shuffled = torch.randperm(candidates.boxes.shape[1], generator=torch.Generator().manual_seed(0))
    other = replace(
        candidates,
        boxes=candidates.boxes[:, shuffled],
        class_scores=candidates.class_scores[:, shuffled],
        objectness=candidates.objectness[:, shuffled],
    )
    scores, expected = (detxai.targets.score_targets(targets, each) for each in (other, candidates))
    assert torch.equal(scores, expected)
    assert float(expected.detach().min()) > 0


def test_softmax_leaves_the_no_object_class_out() -> None:
    own = detr()
    image = photo(60, 90)
    with torch.no_grad():
        logits = own.model(**own.processor(images=image, return_tensors="pt")).logits
    candidates = wrapped(own).candidates(image)
    shares = np.exp(logits.double().numpy())
    shares /= shares.sum(-1, keepdims=True)
    np.testing.assert_allclose(candidates.class_scores.detach(), shares[..., :-1], atol=1e-6)
    np.testing.assert_allclose(candidates.objectness.detach(), 1 - shares[..., -1], atol=1e-6)
