"""The user's query detector: given back as it was, honoured where it was changed, refused where it is none."""

from __future__ import annotations

import copy
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_snapshots import StopError, assert_same, raising, snapshot
from query_detectors import (
    DETR_SIZE,
    SQUARE,
    SeededDetector,
    dab_detr,
    deformable_detr,
    detr,
    photo,
    rf_detr,
    rt_detr,
    transformers,
    yolos,
)

import detxai
from detxai.adapters.transformers.recognising import is_of_transformers
from detxai.cli import main

MAKERS: dict[str, Callable[[], SeededDetector]] = {
    "detr": detr,
    "deformable": deformable_detr,
    "rt-detr": rt_detr,
    "rf-detr": rf_detr,
    "yolos": yolos,
}
IMAGE = photo(60, 90)
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "candidates": lambda detector, found: detector.candidates(IMAGE),
    "layer_cam": lambda detector, found: detxai.explain(detector, IMAGE, "layer_cam", found),
    "ablation_cam": lambda detector, found: detxai.explain(
        detector, IMAGE, "ablation_cam", found, ratio_channels_to_ablate=0.05, unablated_weights="zero"
    ),
}


def wrapped(own: SeededDetector, **options: Any) -> Any:
    return detxai.wrap(own.model, processor=own.processor, **options)


@pytest.mark.parametrize(
    ("name", "error"), [*((name, None) for name in MAKERS), ("detr", StopError), ("yolos", KeyboardInterrupt)]
)
def test_the_model_comes_back_as_it_was(name: str, error: type[BaseException] | None) -> None:
    own = MAKERS[name]()
    with torch.random.fork_rng(devices=[]):
        found = wrapped(own).detect(IMAGE, 0)[:1]
    model = own.model.train()
    next(module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 > 0)
        parameter.grad = torch.full_like(parameter, 0.5) if i % 2 else None
    config = copy.deepcopy(model.config)
    detector = wrapped(own)
    stopped = model.bbox_predictor if hasattr(model, "bbox_predictor") else model.model.decoder
    for call in CALLS.values():
        handle = stopped.register_forward_hook(raising(error)) if error else None
        before = snapshot(model)
        if error is None:
            call(detector, found)
        else:
            with pytest.raises(error):
                call(detector, found)
        assert_same(before, snapshot(model))
        if handle is not None:
            handle.remove()
    assert model.config.to_dict() == config.to_dict()


def test_hooks_that_the_library_places_itself_do_not_pile_up() -> None:
    own = detr(attn_implementation="eager")
    own.model.config.output_attentions = own.model.config.output_hidden_states = True
    before = snapshot(own.model)
    detector = wrapped(own)
    found = detector.detect(IMAGE, 0)
    for _ in range(2):
        detxai.explain(
            detector, IMAGE, "ablation_cam", found[:1], ratio_channels_to_ablate=0.05, unablated_weights="zero"
        )
        with detector.borrowed(), torch.no_grad():
            outputs = own.model(**own.processor(images=IMAGE, return_tensors="pt"))
        assert len(outputs.decoder_attentions) == 2
        assert_same(before, snapshot(own.model))


def test_training_mode_asks_no_denoising_queries() -> None:
    own = rt_detr()
    expected = wrapped(own).candidates(IMAGE)
    own.model.train()
    found = wrapped(own).candidates(IMAGE)
    assert torch.equal(found.boxes, expected.boxes)
    assert own.model.training


def test_a_model_that_was_run_in_inference_mode_still_has_gradients() -> None:
    """transformers keeps the anchors of a size that it has seen, made in whatever mode it was seen in."""
    own = rt_detr(7, size={"height": 96, "width": 64})
    with torch.inference_mode():
        own.model(**own.processor(images=IMAGE, return_tensors="pt"))
    detector = wrapped(own)
    found = detector.detect(IMAGE, 0)[:1]
    (explanation,) = detxai.explain(detector, IMAGE, "layer_cam", found)
    assert np.ptp(explanation.values) > 0


def _cooler(model: Any) -> None:
    """As somebody's temperature behind the classes."""
    model.class_labels_classifier.register_forward_hook(lambda module, given, output: output * 0.5)


def _own_forward(model: Any) -> None:
    kind = type(model)

    def forward(self: Any, pixel_values: Any, pixel_mask: Any = None, **named: Any) -> Any:
        outputs = kind.forward(self, pixel_values, pixel_mask, **named)
        outputs.pred_boxes = outputs.pred_boxes * 0.8
        return outputs

    model.__class__ = type("OwnForObjectDetection", (kind,), {"forward": forward})


def _other_images(model: Any) -> None:
    model.model.backbone.register_forward_pre_hook(lambda module, given: (given[0] * 0.5, *given[1:]))


def _own_features(model: Any) -> None:
    model.model.encoder.register_forward_hook(
        lambda module, given, output: type(output)(last_hidden_state=output.last_hidden_state * 1.5)
    )


@pytest.mark.parametrize("change", [_cooler, _own_forward, _other_images, _own_features])
def test_a_changed_model_is_asked_as_it_is(change: Callable[[Any], None]) -> None:
    own = detr()
    unchanged = wrapped(own).detect(IMAGE, 0)
    change(own.model)
    expected, detector = own.own_answer(IMAGE), wrapped(own)
    assert not torch.equal(expected["boxes"], unchanged.boxes) or not torch.equal(expected["scores"], unchanged.scores)
    found = detector.detect(IMAGE, 0)
    assert torch.equal(found.boxes, expected["boxes"])
    assert torch.equal(found.scores, expected["scores"])
    with torch.no_grad():
        full = detector.candidates(IMAGE)
        for layer in (None, "model.input_projection"):
            resumed = detector.resume(detector.features(IMAGE, layer))
            assert torch.equal(full.boxes, resumed.boxes)
            assert torch.equal(full.class_scores, resumed.class_scores)
    assert float((full.of_labels(found.labels)[1].amax((1, 2)) - found.scores).min()) > -1e-5


def test_hooks_on_every_module_are_followed() -> None:
    detector = wrapped(detr())

    def bent(module: Any, given: Any, output: Any) -> Any:
        return output * 1.25 if isinstance(module, torch.nn.Conv2d) else None

    handle = torch.nn.modules.module.register_module_forward_hook(bent)
    try:
        with torch.no_grad():
            full, resumed = detector.candidates(IMAGE), detector.resume(detector.features(IMAGE))
    finally:
        handle.remove()
    assert torch.equal(full.boxes, resumed.boxes)
    assert not torch.equal(full.boxes, detector.candidates(IMAGE).boxes)


def test_outputs_without_names_are_refused() -> None:
    own = dab_detr()
    own.model.config.return_dict = False
    with pytest.raises(ValueError, match=r"model must output an object .*; set model.config.return_dict"):
        wrapped(own).detect(IMAGE, 0)


def test_half_precision() -> None:
    own = detr()
    own.model.to(torch.bfloat16)
    detector = wrapped(own)
    assert torch.equal(detector.detect(IMAGE, 0).boxes, own.own_answer(IMAGE)["boxes"].float())
    assert detector.candidates(IMAGE).class_scores.dtype == torch.bfloat16


class Cooler(transformers.DetrImageProcessor):
    """Scores that no sigmoid or softmax gives."""

    def post_process_object_detection(self, outputs: Any, threshold: float = 0.5, target_sizes: Any = None) -> Any:
        found = super().post_process_object_detection(outputs, threshold=0.0, target_sizes=target_sizes)
        return [{**one, "scores": one["scores"] ** 2} for one in found]


class Fewer(transformers.DetrImageProcessor):
    """Suppression of one's own: fewer of the same detections."""

    def post_process_object_detection(self, outputs: Any, threshold: float = 0.5, target_sizes: Any = None) -> Any:
        found = super().post_process_object_detection(outputs, threshold=threshold, target_sizes=target_sizes)
        return [{name: values[::2] for name, values in one.items()} for one in found]


def test_a_processor_that_leaves_some_out_is_followed() -> None:
    own = SeededDetector(detr().model, Fewer(size=DETR_SIZE))
    detector = wrapped(own)
    assert len(detector.detect(IMAGE, 0)) == 6
    assert detector.candidates(IMAGE).boxes.shape[1] == 12


def test_a_processor_that_is_patched_afterwards_is_noticed() -> None:
    own = detr()
    detector = wrapped(own)
    detector.candidates(IMAGE)
    own.processor.post_process_object_detection = types.MethodType(Cooler.post_process_object_detection, Cooler())
    with pytest.raises(ValueError, match=r"processor.post_process_object_detection is not the family's own"):
        detector.candidates(IMAGE)


def test_a_box_that_ends_before_it_starts_is_no_detection() -> None:
    own = detr()
    detector = wrapped(own)
    every = detector.detect(IMAGE, 0)
    answer = own.processor.post_process_object_detection

    def turned(*given: Any, **named: Any) -> Any:
        (found,) = answer(*given, **named)
        found["boxes"][0] = found["boxes"][0].flip(0)
        return [found]

    own.processor.post_process_object_detection = turned
    assert torch.equal(detector.detect(IMAGE, 0).boxes, every.boxes[1:])


@pytest.mark.parametrize("make", [detr, rt_detr], ids=lambda make: make.__name__)
def test_what_one_pass_computed_gives_the_same_answers(make: Any) -> None:
    detector = wrapped(make())
    found, features = detector.detect(IMAGE, 0), detector.features(IMAGE)
    with torch.no_grad():
        candidates = detector.candidates(IMAGE)
        for _ in range(2):
            assert torch.equal(detector.detections(features, 0).boxes, found.boxes)
            assert torch.equal(detector.candidates(features).class_scores, candidates.class_scores)
            levels = detector.features(features).levels
            assert all(torch.equal(levels[name], level) for name, level in features.levels.items())
            assert torch.equal(detector.resume(features).boxes, candidates.boxes)
        both = detector.detections_and_candidates(IMAGE, 0)
        assert torch.equal(both[0].boxes, found.boxes)
        assert torch.equal(both[1].class_scores, candidates.class_scores)


def _config(kind: str, **settings: Any) -> Any:
    return getattr(transformers, kind)(**settings)


def classifier() -> Any:
    small = _config("ResNetConfig", embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4)
    return transformers.ResNetForImageClassification(small)


def mask_former() -> Any:
    swin = _config("SwinConfig", embed_dim=8, depths=[1] * 4, num_heads=[1] * 4)
    decoder = _config("DetrConfig", d_model=16, encoder_layers=1, decoder_layers=1, num_queries=4)
    config = _config(
        "MaskFormerConfig", backbone_config=swin, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


def owl_vit() -> Any:
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = _config("OwlViTConfig", text_config={**tower, "vocab_size": 50000}, vision_config=tower)
    return transformers.OwlViTForObjectDetection(config)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a classifier": (
        classifier,
        TypeError,
        r"got .*ResNetForImageClassification, which answers with classes of the wh",
    ),
    "a segmenter": (mask_former, TypeError, r"got .*MaskFormerFor.*, which answers with masks and no boxes"),
    "a zero-shot detector": (owl_vit, TypeError, r"got .*OwlViTForObjectDetection, which finds what a text asks for"),
    "the part without heads": (lambda: detr().model.model, TypeError, r"got .*DetrModel, which answers with features"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_query_detector_is_refused(case: str) -> None:
    make, error, said = REFUSED[case]
    with pytest.raises(error, match=rf"model must be one of transformers' AutoModelForObjectDetection, {said}"):
        detxai.wrap(make())


def test_a_pipeline_is_told_what_to_hand_over() -> None:
    own = detr()
    pipeline = transformers.pipeline("object-detection", model=own.model, image_processor=own.processor)
    with pytest.raises(TypeError, match=r"use detxai.wrap\(pipeline.model, processor=pipeline.image_processor\)"):
        detxai.wrap(pipeline)


class Cropping(transformers.DetrImageProcessor):
    do_center_crop = True


@pytest.mark.parametrize(
    ("processor", "error", "said"),
    [
        (3, TypeError, "processor must be the model's image processor, .* got int"),
        (transformers.ViTImageProcessor(), TypeError, "processor must be .*post_process_object_detection.*got ViT"),
        (Cooler(size=DETR_SIZE), ValueError, "processor: Cooler scores classes neither by a sigmoid nor by a softmax"),
        (Cropping(size=DETR_SIZE), ValueError, "processor must show the model the whole image"),
    ],
)
def test_bad_processors(processor: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        detxai.wrap(detr().model, processor=processor)


def test_layers_without_a_place_are_refused() -> None:
    detector = wrapped(detr())
    with pytest.raises(ValueError, match=r"layer 'model.decoder' must output feature maps, or tokens of one of the g"):
        detector.features(IMAGE, "model.decoder")
    with pytest.raises(LookupError, match=r"layer 'model.encodr' is not in DetrForObjectDetection; near it"):
        detector.features(IMAGE, "model.encodr")


def test_folders_that_hold_no_query_detector(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .* holds no config.json"):
        detxai.wrap(tmp_path)
    classifier().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="ResNetForImageClassification, which answers with classes"):
        detxai.wrap(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config.json describes a model that transformers does not know"):
        detxai.wrap(tmp_path)


def test_a_folder_with_weights_missing_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    own = rt_detr()
    own.model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["model.enc_output.0.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for 1 of the parameters .* such as model.enc_output.0.weight"):
        detxai.wrap(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"the weights in .* do not load"):
        detxai.wrap(tmp_path)


def test_the_command_line_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import PIL.Image

    own = rt_detr()
    own.model.save_pretrained(tmp_path / "model")
    transformers.RTDetrImageProcessor(size=SQUARE).save_pretrained(tmp_path / "model")
    PIL.Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    arguments = [str(tmp_path / "photo.png"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    threshold = str(float(own.own_answer(IMAGE)["scores"].sort(descending=True).values[2]))
    assert main(["explain", *arguments, "--method", "layer_cam", "--score-threshold", threshold, "--json"]) == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) >= 2
    capsys.readouterr()
    assert main(["families", "--json"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out)["families"] if row["family"] == "transformers"]
    assert row["extra"] == "transformers"
    assert row["gradients"]


def test_a_missing_transformers_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib

    own, real = detr(), importlib.import_module
    assert is_of_transformers(own.model)
    own.model.save_pretrained(tmp_path)

    def without(name: str, *given: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
        return real(name, *given)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"needs transformers: pip install \"detxai\[transformers\]\""):
        detxai.wrap(tmp_path)
