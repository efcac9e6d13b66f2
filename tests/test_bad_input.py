"""Every wrong input has one clear error that names the argument, and leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from faster_rcnns import small_faster_rcnn

import detxai
from detxai.adapters.loading import load_detector
from detxai.cli import main
from detxai.detections import Candidates, Detections
from detxai.explanation import Cost, Explanation
from detxai.images import load_image
from detxai.pages.overlays import overlay, sheet
from detxai.targets import BoxSideTarget, ClassScoreTarget

PHOTO = np.full((40, 60, 3), 128, dtype=np.uint8)
BOX = [1.0, 2.0, 30.0, 30.0]
MODEL = f"{Path(__file__).with_name('faster_rcnns.py')}:small_faster_rcnn"
NAN = float("nan")


def explanation() -> Explanation:
    return Explanation(np.ones((40, 60), np.float32), PHOTO, "m", {}, Cost(0, 1))


def detections(**changed: Any) -> Detections:
    return Detections(**{"boxes": [BOX], "scores": [0.5], "labels": [1], **changed})


def explain(*arguments: Any, **settings: Any) -> Any:
    return detxai.explain(small_faster_rcnn(), *arguments, **settings)


IMAGES: dict[str, tuple[Any, type[Exception], str]] = {
    "no image at all": (None, TypeError, "image must be a PIL.Image"),
    "grey array": (PHOTO[..., 0], ValueError, r"image must be .*shape \(40, 60\)"),
    "float array": (PHOTO / 255, ValueError, "image must be .*float64"),
    "channels first": (PHOTO.transpose(2, 0, 1), ValueError, "image must be"),
    "empty array": (PHOTO[:0], ValueError, "image must not be empty"),
    "uint8 tensor": (torch.zeros(3, 4, 4, dtype=torch.uint8), ValueError, "image must be .*uint8"),
    "batch of tensors": (torch.zeros(1, 3, 4, 4), ValueError, r"image must be .*\(1, 3, 4, 4\)"),
    "NaN tensor": (torch.full((3, 4, 4), NAN), ValueError, "image must be finite"),
    "tensor of 0..255": (torch.full((3, 4, 4), 200.0), ValueError, r"image must lie in \[0, 1\]"),
    "empty tensor": (torch.zeros(3, 0, 4), ValueError, "image must not be empty"),
    "missing file": ("nowhere.jpg", FileNotFoundError, "image: no such file: nowhere.jpg"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images(case: str) -> None:
    image, error, message = IMAGES[case]
    with pytest.raises(error, match=message):
        explain(image)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(whole)
    for name, data, message in (
        ("text.jpg", b"hello", "is not an image"),
        ("empty.png", b"", "is not an image"),
        ("truncated.jpg", whole.read_bytes()[:2000], "is damaged or truncated"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"image: .*{name} {message}"):
            load_image(tmp_path / name)
    with pytest.raises(ValueError, match="image must be a file, got the folder"):
        load_image(tmp_path)


def classifier() -> torch.nn.Module:
    from torchvision.models import resnet18

    return resnet18(weights=None)


def segmenter() -> torch.nn.Module:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)


CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a classifier": (lambda: detxai.wrap(classifier()), TypeError, "model must be a torchvision FasterRCNN.*ResNet"),
    "a segmenter": (lambda: detxai.wrap(segmenter()), TypeError, "model must be .*RetinaNet.*got .*LRASPP"),
    "no model": (lambda: detxai.wrap(None), TypeError, "model must be .*NoneType"),
    "class_names a number": (lambda: detxai.wrap(small_faster_rcnn(), class_names=3), TypeError, "class_names"),  # type: ignore[call-overload]
    "unknown builder": (
        lambda: detxai.wrap("fasterrcnn_resnet5"),
        ValueError,
        "model must be .*got 'fasterrcnn_resnet5'; did you mean 'fasterrcnn_resnet50_fpn'",
    ),
    "unknown bundled model": (lambda: detxai.wrap("scene-frcn"), ValueError, "; did you mean 'scenes-frcnn'"),
    "missing .pt": (lambda: detxai.wrap("nowhere.pt"), FileNotFoundError, "nowhere.pt"),
    "missing factory module": (lambda: detxai.wrap("no_such_module:build"), ValueError, "no module 'no_such_module'"),
    "missing factory file": (lambda: detxai.wrap("nowhere.py:build"), FileNotFoundError, "nowhere.py"),
    "missing factory function": (lambda: detxai.wrap("json:build"), ValueError, "json has no function 'build'"),
    "factory of no detector": (lambda: detxai.wrap("builtins:list"), TypeError, "model must be .*list"),
    "missing weights": (
        lambda: load_detector("fasterrcnn_mobilenet_v3_large_320_fpn", weights="nowhere.pth"),
        FileNotFoundError,
        "weights: no such file",
    ),
    "weights for a factory": (lambda: load_detector(MODEL, weights="a.pth"), ValueError, "weights are for"),
    "unknown method": (lambda: explain(PHOTO, "eigencam"), ValueError, "method must be .*did you mean 'eigen_cam'"),
    "method by its class": (lambda: explain(PHOTO, "LayerCAM"), ValueError, "did you mean 'layer_cam'"),
    "method of no kind": (lambda: explain(PHOTO, 3), TypeError, "method must be a name"),
    "unknown setting": (
        lambda: explain(PHOTO, "eigen_cam", layer="x"),
        ValueError,
        "eigen_cam has the settings .*did you mean 'layers'",
    ),
    "settings beside a method": (
        lambda: explain(PHOTO, detxai.EigenCAM(), layers="backbone"),
        TypeError,
        "settings must be given to the method",
    ),
    "unknown layer": (
        lambda: explain(PHOTO, "eigen_cam", layers="backbon"),
        LookupError,
        "layer 'backbon' is not in.*backbone",
    ),
    "no layer": (lambda: explain(PHOTO, "eigen_cam", layers=[]), ValueError, "layers must name at least one"),
    "layer by number": (
        lambda: explain(PHOTO, "eigen_cam", layers=[1]),
        TypeError,
        "layers must be a list, each a text",
    ),
    "layer without maps": (
        lambda: explain(PHOTO, "eigen_cam", layers="roi_heads.box_predictor.cls_score"),
        ValueError,
        "must output .* feature maps",
    ),
    "threshold above 1": (lambda: explain(PHOTO, score_threshold=25), ValueError, r"score_threshold must lie in"),
    "threshold NaN": (lambda: explain(PHOTO, score_threshold=NAN), ValueError, "score_threshold must lie in"),
    "threshold a word": (lambda: explain(PHOTO, score_threshold="high"), TypeError, "score_threshold must be a number"),
    "detections of another kind": (lambda: explain(PHOTO, detections=[BOX]), TypeError, "detections must be"),
    "detections of another image": (
        lambda: explain(PHOTO, detections=detections(boxes=[[100, 0, 120, 9]])),
        ValueError,
        "detections must lie in the image of 60 x 40",
    ),
    "unknown label": (
        lambda: ClassScoreTarget(BOX, 77)(detxai.wrap(small_faster_rcnn()).candidates(PHOTO)),
        ValueError,
        "label.*77",
    ),
    "boxes of five": (lambda: detections(boxes=[[*BOX, 1]]), ValueError, r"boxes must have shape \(N, 4\)"),
    "boxes of words": (lambda: detections(boxes="box"), TypeError, "boxes must be"),
    "boxes NaN": (lambda: detections(boxes=[[NAN, 0, 1, 1]]), ValueError, "boxes must be finite"),
    "boxes backwards": (lambda: detections(boxes=[[5, 0, 1, 1]]), ValueError, "boxes must be xyxy"),
    "scores too many": (lambda: detections(scores=[0.5, 0.5]), ValueError, r"scores must have shape \(1,\)"),
    "scores above 1": (lambda: detections(scores=[90]), ValueError, r"scores must lie in \[0, 1\]"),
    "scores NaN": (lambda: detections(scores=[NAN]), ValueError, "scores must be finite"),
    "labels too few": (lambda: detections(labels=[]), ValueError, "labels must have shape"),
    "a detection too far": (lambda: detections()[1], IndexError, "detection 1 of 1"),
    "candidates of one image": (
        lambda: Candidates(torch.zeros(1, 2, 1, 4), torch.zeros(2, 3), torch.zeros(1, 2), torch.arange(3)),
        ValueError,
        r"class_scores must have shape \(B, N, C\)",
    ),
    "target box of three": (lambda: ClassScoreTarget([1, 2, 3], 1), ValueError, r"box must have shape \(4,\)"),
    "target box NaN": (lambda: ClassScoreTarget([NAN, 0, 1, 1], 1), ValueError, "box must be finite"),
    "target label negative": (lambda: ClassScoreTarget(BOX, -1), ValueError, "label must be a class number"),
    "target reach": (lambda: ClassScoreTarget(BOX, 1, reach=2), ValueError, "reach must be"),
    "target side": (lambda: BoxSideTarget(BOX, 1, side="up"), ValueError, "side must be one of"),  # type: ignore[arg-type]
    "target of an image": (lambda: ClassScoreTarget(BOX, 1)(PHOTO), TypeError, "a target takes Candidates"),
    "map of another size": (
        lambda: Explanation(np.ones((4, 4), np.float32), PHOTO, "m", {}, Cost(0, 1)),
        ValueError,
        "values must have the image's shape",
    ),
    "map NaN": (
        lambda: Explanation(np.full((40, 60), NAN, np.float32), PHOTO, "m", {}, Cost(0, 1)),
        ValueError,
        "values must be finite",
    ),
    "overlay mode": (lambda: overlay(explanation(), mode="jet"), ValueError, "mode must be one of"),  # type: ignore[arg-type]
    "overlay colours": (lambda: overlay(explanation(), colours="mud"), ValueError, "colours must be"),
    "overlay opacity": (lambda: overlay(explanation(), opacity=0), ValueError, "opacity must lie in"),
    "overlay width": (lambda: overlay(explanation(), width=3), ValueError, "width must be at least 16"),
    "sheet of nothing": (lambda: sheet([]), ValueError, "explanations must not be empty"),
    "saved as .txt": (lambda: explanation().save("a.txt"), ValueError, "path must end in one of"),
    "saved nowhere": (lambda: explanation().save("no/such/a.png"), FileNotFoundError, "path: no such folder"),
    "map saved as .npy": (lambda: explanation().save_map("a.npy"), ValueError, "path must end in .npz"),
    "map saved nowhere": (lambda: explanation().save_map("no/such/a.npz"), FileNotFoundError, "path: no such folder"),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, error, message = CALLS[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call()
    assert not list(tmp_path.iterdir())


def test_bad_weights_files(tmp_path: Path) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"weights: .*bad\.pth is not a state_dict that loads"):
        load_detector(name, weights=bad)
    torch.save({"fc.weight": torch.zeros(2, 2)}, bad)
    with pytest.raises(ValueError, match=r"weights: .*has no box predictor"):
        load_detector(name, weights=bad)
    torch.save({"roi_heads.box_predictor.cls_score.weight": torch.zeros(2, 2)}, bad)
    with pytest.raises(ValueError, match=r"weights: .*does not fit"):
        load_detector(name, weights=bad)


COMMANDS: dict[str, tuple[list[str], str]] = {
    "missing image": (["IMAGE", "nowhere.jpg"], "IMAGE: no such file: nowhere.jpg"),
    "a folder": (["FOLDER"], "IMAGE must be a file, got the folder"),
    "the only image is none": (["BROKEN"], "broken.jpg: image: .* is not an image"),
    "unknown method": (["IMAGE", "--method", "gradcam"], "method must be one of"),
    "unknown setting": (["IMAGE", "--set", "colour=red"], "eigen_cam has the settings"),
    "setting without a value": (["IMAGE", "--set", "layers"], "expected NAME=VALUE"),
    "setting twice": (["IMAGE", "--set", "layers=a", "--set", "layers=b"], "--set: each name once"),
    "a setting called method": (["IMAGE", "--set", "method=x"], "eigen_cam has the settings"),
    "unknown layer": (["IMAGE", "--set", "layers=neck"], "layer 'neck' is not in"),
    "threshold": (["IMAGE", "--score-threshold", "25"], r"expected a number in \[0, 1\]"),
    "missing weights": (["IMAGE", "--weights", "w.pth"], "--weights: no such file"),
    "missing class names": (["IMAGE", "--class-names", "n.txt"], "--class-names: no such file"),
    "class names no JSON": (["IMAGE", "--class-names", "NAMES"], "--class-names: .* cannot be read"),
    "device": (["IMAGE", "--device", "toaster"], "--device: 'toaster' cannot be used"),
    "out is a file": (["IMAGE", "--out", "IMAGE"], "--out must be a folder"),
    "out below a file": (["IMAGE", "--out", "IMAGE/below/it"], "Not a directory|cannot find"),
    "unknown model": (["IMAGE", "--model", "yolo"], "model must be"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    arguments, message = COMMANDS[case]
    PIL.Image.fromarray(PHOTO).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    (tmp_path / "names.json").write_text("{")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    stand_ins = {"IMAGE": "good.png", "BROKEN": "broken.jpg", "FOLDER": "folder", "NAMES": "names.json"}
    given = [re.sub("^(IMAGE|BROKEN|FOLDER|NAMES)", lambda m: stand_ins[m[0]], argument) for argument in arguments]
    defaults = ["--model", MODEL, "--method", "eigen_cam", "--out", "out/deep"]
    try:
        code = main(["explain", *defaults, *given])
    except SystemExit as refused:  # argparse
        code = int(refused.code or 0)
    printed = capsys.readouterr()
    assert code == 2
    assert re.search(message, printed.err), printed.err
    assert "Traceback" not in printed.err
    assert not printed.out
    assert sorted(tmp_path.rglob("*")) == before


def test_ablation_cam_refuses_an_unknown_label() -> None:
    with pytest.raises(ValueError, match=r"label.*77"):
        explain(PHOTO, "ablation_cam", detections=detections(labels=[77]))
