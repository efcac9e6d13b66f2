"""What is no YOLO with boxes gets one clear error."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("ultralytics")

import ultralytics
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from yolo_seeded import (
    SIZE,
    bus,
    one_thread,  # noqa: F401  (a fixture that applies to every test here)
    same,
    seeded,
)

from detxai.adapters.ultralytics.checkpoint import OLDEST, load_checkpoint
from detxai.adapters.ultralytics.yolo import YOLOAdapter, is_yolo


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("yolov8n-cls", "Classify", "a classifier puts out no boxes"),
        ("yolo26n-sem", "SemanticSegment", "puts out no boxes"),
        ("yolo26n-depth", "Depth", "puts out no boxes"),
        ("yolov8n-worldv2", "WorldDetect", "YOLO-World"),
        ("yoloe-11n", "YOLOEDetect", "YOLOE"),
        ("yoloe-26n-seg", "YOLOESegment26", "YOLOE"),
    ],
)
def test_heads_without_boxes_or_with_prompts_are_refused_by_name(name: str, head: str, reason: str) -> None:
    with pytest.raises(TypeError, match=f"got {head}.*{reason}"):
        YOLOAdapter(YOLO(f"{name}.yaml"))


def test_a_head_of_ones_own_is_refused() -> None:
    model = YOLO("yolov8n.yaml").model
    model.model[-1].__class__ = type("MyDetect", (type(model.model[-1]),), {})
    with pytest.raises(TypeError, match=r"got MyDetect.*register an adapter"):
        YOLOAdapter(model)


def exported(folder: Path) -> Any:
    file = folder / "model.onnx"
    file.write_bytes(b"")
    return YOLO(file)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda _: nn.Linear(2, 2), TypeError, "got Linear"),
        (lambda _: 3, TypeError, "got int"),
        (lambda folder: exported(folder), TypeError, "exported|holds the export"),
        (
            lambda _: DetectionModel("yolov8n.yaml", ch=1, verbose=False),
            ValueError,
            "RGB images, got one for 1 channels",
        ),
    ],
)
def test_what_is_no_network_is_refused(
    make: Callable[[Path], object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        YOLOAdapter(make(tmp_path))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be positive, got 0"),
        ({"input_size": (64, -1)}, ValueError, "input_size must be positive"),
        ({"input_size": "big"}, TypeError, "input_size must be a whole number or"),
        ({"input_size": (1, 2, 3)}, TypeError, "input_size"),
        ({"input_size": True}, TypeError, "input_size"),
        ({"class_names": "person"}, TypeError, "class_names must map labels to names"),
        ({"class_names": 3}, TypeError, "class_names"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        YOLOAdapter(seeded("v8"), **options)


@pytest.mark.parametrize("layer", ["model.22", "model.99", "", "model"])
def test_layers_without_features_are_refused(layer: str) -> None:
    with pytest.raises(LookupError, match="layer"):
        YOLOAdapter(seeded("v8")).features(bus(), layer)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_outside_of_0_to_1_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="score_threshold"):
        YOLOAdapter(seeded("v8")).detect(bus(), threshold)


class RunsCode:
    ran: list[int] = []  # noqa: RUF012

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['DETXAI_TEST_RAN'] = '1'",)


def archive(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("readme.txt", "no checkpoint")


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "damaged or truncated"),
    "garbage": (lambda file: file.write_bytes(b"no checkpoint" * 99), "damaged or truncated"),
    "zip of something else": (archive, "not an ultralytics checkpoint"),
    "weights only": (lambda file: torch.save(nn.Linear(2, 2).state_dict(), file), "holds no ultralytics model"),
    "another network": (lambda file: torch.save({"model": nn.Linear(2, 2)}, file), "holds no ultralytics model"),
    "TorchScript": (
        lambda file: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(file)),
        "TorchScript export",
    ),
    "code": (lambda file: torch.save({"model": RunsCode()}, file), r"load it yourself: detxai.wrap\(ultralytics.YOLO"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint_are_refused(name: str, tmp_path: Path) -> None:
    write, message = FILES[name]
    file = tmp_path / "best.pt"
    write(file)
    with pytest.raises(ValueError, match=message):
        YOLOAdapter(load_checkpoint(file))
    assert "DETXAI_TEST_RAN" not in os.environ


def saved(file: Path, model: nn.Module) -> Path:
    torch.save({"model": model, "train_args": {"imgsz": 96, "iou": 0.1}}, file)
    return file


def test_truncated_and_misnamed_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pt", YOLO("yolov8n.yaml").model)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or truncated"):
        YOLOAdapter(load_checkpoint(cut))
    with pytest.raises(ValueError, match="exported models cannot be explained"):
        YOLOAdapter(load_checkpoint(whole.rename(tmp_path / "whole.engine")))
    with pytest.raises(ValueError, match=r"must be a \.pt file"):
        YOLOAdapter(load_checkpoint(tmp_path))


@pytest.mark.parametrize("name", ["yolov8n.pt", "nowhere/best.pt"])
def test_missing_files_are_reported_and_not_downloaded(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        YOLOAdapter(load_checkpoint(tmp_path / name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["best.pt", "yolov5s.pt", "it's.pt"]
)  # ultralytics looks for other names in their place
def test_a_saved_model_is_loaded_from_the_file_that_was_named(name: str, tmp_path: Path) -> None:
    model = DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    model.names = {0: "ship", 1: "plane", 2: "car"}
    adapter = YOLOAdapter(load_checkpoint(saved(tmp_path / name, model)))
    assert adapter.class_names == model.names
    assert adapter.input_size == (96, 96)
    assert adapter.settings.iou == 0.7, "training's own threshold is not predict's"
    assert adapter.describe()["weights"] == str(tmp_path / name)
    assert not adapter.model.training
    expected = YOLOAdapter(model, input_size=96).candidates(bus())
    assert same(adapter.candidates(bus()), expected) == 0


def test_a_classifiers_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got Classify"):
        YOLOAdapter(load_checkpoint(saved(tmp_path / "cls.pt", YOLO("yolov8n-cls.yaml").model)))


def test_yolo_objects_are_told_from_others_without_importing_ultralytics() -> None:
    yolo = YOLO("yolov8n.yaml")
    assert is_yolo(yolo)
    assert is_yolo(yolo.model)
    assert not is_yolo(nn.Linear(2, 2))
    assert not is_yolo("yolov8n.pt")
    code = (
        "import sys, torch; from detxai.adapters.ultralytics.yolo import is_yolo\n"
        "is_yolo(torch.nn.ReLU()); print('ultralytics' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_a_missing_ultralytics_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ImportError, match=r'pip install "detxai\[yolo\]"'):
        YOLOAdapter(nn.Linear(2, 2))


def test_class_names_of_another_number_of_classes_are_refused() -> None:
    network = seeded("v8").model
    with pytest.raises(ValueError, match="80 classes, numbered from 0; got 2 names"):
        YOLOAdapter(network, class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=r"got labels \[80\]"):
        YOLOAdapter(network, class_names={0: "cat", 80: "dog"})


@pytest.mark.parametrize("installed", ["8.3.200", "8.4.179"])
def test_an_ultralytics_that_is_too_old_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    monkeypatch.setattr(ultralytics, "__version__", installed)
    with pytest.raises(ImportError, match=rf"{OLDEST}, got {installed}: pip install -U \"detxai\[yolo\]\""):
        YOLOAdapter(seeded("v8"), input_size=SIZE).detect(bus())


def test_the_oldest_ultralytics_is_the_one_that_is_declared() -> None:
    assert [one for one in requires("detxai") or [] if one.startswith("ultralytics>=" + OLDEST)]
