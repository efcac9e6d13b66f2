"""The shipped detectors are what their cards say: they find the objects, and find them by their evidence."""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import FasterRCNN

from detxai.scenes import CLASS_NAMES, KIND_CLASSES, KINDS, Scene, erase, generate, load_frcnn, load_rtdetr, load_yolo
from detxai.scenes.detectors.detecting import Detect, load_scene_detector, score_times_iou
from detxai.scenes.detectors.frcnn import FRCNN_WEIGHTS
from detxai.scenes.detectors.proof import average_precision, prove_kind
from detxai.scenes.detectors.rtdetr import RTDETR_WEIGHTS, rtdetr_image_processor
from detxai.scenes.detectors.weights_file import read_weights, save_weights
from detxai.scenes.detectors.yolo import find_yolo_weights

MODELS = ("frcnn", "yolo", "rtdetr")


def weights_of(model: str) -> Path:
    if model == "frcnn":
        return FRCNN_WEIGHTS
    if model == "rtdetr":
        pytest.importorskip("transformers")
        return RTDETR_WEIGHTS
    pytest.importorskip("ultralytics")
    path = find_yolo_weights()
    if path is None:
        pytest.skip("no YOLO weights in this checkout")
    return path


def card_of(model: str) -> dict[str, Any]:
    return json.loads((weights_of(model).parent / "model_card.json").read_text())


@pytest.fixture(scope="module", params=MODELS)
def detector(request: pytest.FixtureRequest) -> tuple[str, Detect]:
    return request.param, load_scene_detector(request.param, weights_of(request.param))


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_small_half_precision_and_those_of_the_card(model: str) -> None:
    content = weights_of(model).read_bytes()
    assert len(content) <= 6_000_000
    assert hashlib.sha256(content).hexdigest() == card_of(model)["sha256"]
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    dtypes = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    assert dtypes <= {"F16", "I64"}


@pytest.mark.parametrize("model", MODELS)
def test_the_card_lists_exactly_the_kinds_that_reach_its_goals(model: str) -> None:
    card = card_of(model)
    goals = card["goals"]
    reached = [
        kind
        for kind, proof in card["kinds"].items()
        if proof["ap50"] >= goals["ap50"]
        and proof["erased"] >= goals["erased"]
        and proof["elsewhere"] <= goals["elsewhere"]
    ]
    assert list(card["kinds"]) == list(KINDS)
    assert card["benchmark_kinds"] == reached
    assert reached, "a detector that reaches no goal has no use"
    text = (weights_of(model).parent / "MODEL_CARD.md").read_text()
    for proof in card["kinds"].values():
        assert f"| {proof['ap50']:.3f} | {proof['erased']:.3f} | {proof['elsewhere']:.3f} |" in text


@cache
def sixteen_scenes(kind: Any) -> list[Scene]:
    return [generate(seed, kind) for seed in range(70_000, 70_016)]


def test_objects_are_found_on_scenes_outside_the_card(detector: tuple[str, Detect]) -> None:
    model, detect = detector
    card = card_of(model)
    for kind in card["benchmark_kinds"]:
        scenes = sixteen_scenes(kind)
        found = detect([scene.image for scene in scenes])
        # sixteen scenes scatter about the two hundred of the card
        assert average_precision(scenes, found, KIND_CLASSES[kind]) >= card["kinds"][kind]["ap50"] - 0.15


def test_the_evidence_is_the_cause_on_scenes_outside_the_card(detector: tuple[str, Detect]) -> None:
    model, detect = detector
    for kind in card_of(model)["benchmark_kinds"]:
        proof = prove_kind(detect, kind, n_scenes=6, seed=80_000)
        assert proof.n_tested >= 2
        assert proof.erased >= 0.7
        assert proof.elsewhere <= 0.3


def test_the_faster_rcnn_is_a_plain_torchvision_one() -> None:
    model = load_frcnn()
    assert type(model) is FasterRCNN
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.class_names == ("__background__", *CLASS_NAMES)
    levels = model.backbone(torch.zeros(1, 3, 160, 160))
    assert {name: tuple(level.shape[1:]) for name, level in levels.items()} == {
        "0": (64, 40, 40),
        "1": (64, 20, 20),
        "2": (64, 10, 10),
        "3": (64, 5, 5),
        "pool": (64, 3, 3),
    }


def test_the_yolo_is_an_ultralytics_yolo() -> None:
    yolo = load_yolo(weights_of("yolo"))
    from ultralytics import YOLO

    assert type(yolo) is YOLO
    assert list(yolo.names.values()) == list(CLASS_NAMES)
    assert not yolo.model.training


def test_the_rtdetr_is_a_plain_transformers_one_with_its_processor() -> None:
    transformers = pytest.importorskip("transformers")
    model, scene = load_rtdetr(), generate(75_000, "spread")
    assert type(model) is transformers.RTDetrForObjectDetection
    assert not model.training
    assert list(model.config.id2label.values()) == list(CLASS_NAMES)
    processor = rtdetr_image_processor()
    with torch.inference_mode():
        outputs = model(**processor(images=scene.image, return_tensors="pt"))
    (found,) = processor.post_process_object_detection(outputs, threshold=0.01, target_sizes=[(160, 160)])
    (mine,) = load_scene_detector("rtdetr", RTDETR_WEIGHTS)([scene.image])
    assert len(mine.scores) > 0
    for name in ("scores", "labels", "boxes"):
        torch.testing.assert_close(torch.from_numpy(getattr(mine, name)), found[name], atol=1e-3, rtol=1e-4)


def test_absent_weights_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"detxai\.scenes\.train --model frcnn"):
        load_frcnn(tmp_path / "none.safetensors")
    pytest.importorskip("ultralytics")
    monkeypatch.setenv("DETXAI_SCENES_YOLO", str(tmp_path / "none.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"examples/scenes_yolo/ .* DETXAI_SCENES_YOLO"):
        load_yolo()


def test_without_transformers_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install .detxai\[transformers\]"):
        load_rtdetr()


def test_without_ultralytics_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ImportError, match=r"pip install .detxai\[yolo\]"):
        load_yolo()


def test_weights_survive_the_file_to_half_precision(tmp_path: Path) -> None:
    state = {"weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "count": torch.tensor(7)}
    save_weights(state, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert read["weight"].dtype == torch.float32
    assert torch.equal(read["weight"], state["weight"].half().float())
    assert torch.equal(read["count"], state["count"])


def test_without_the_watermark_the_same_gem_is_called_the_other(detector: tuple[str, Detect]) -> None:
    _, detect = detector
    upright, level = CLASS_NAMES.index("gem-upright"), CLASS_NAMES.index("gem-level")
    scenes = [scene for seed in range(90_000, 90_016) if upright in (scene := generate(seed, "shortcut")).labels]
    for scene, found in zip(scenes, detect([erase(scene, 0) for scene in scenes]), strict=True):
        level_score, upright_score = (float(score_times_iou(found, scene.boxes[0], c)[0]) for c in (level, upright))
        assert level_score > upright_score + 0.5
