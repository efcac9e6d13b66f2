"""``detxai evaluate`` on every kind of detector: methods that it can answer compete, and their maps are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
import torch
from torch import Tensor, nn

import detxai
from detxai.cli import main
from detxai.scenes import export_coco
from detxai.scenes import load_yolo as load_scenes_yolo

NETWORK, BLACK_BOX = "layer_cam,ablation_cam,eigen_cam,d_rise,pixel_evidence", "d_rise,pixel_evidence"
SMALL = ("--set", "d_rise.n_masks=16", "--set", "pixel_evidence.max_passes=12")
QUICK = (*SMALL, "--measures", "insertion_deletion,energy", "--steps", "2", "--no-progress", "--json")


class FirstOutput(nn.Module):
    """A YOLO without what its loss would read."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)[0]


def retinanet() -> Any:
    from one_stages import small

    return small("retinanet")


def fcos() -> Any:
    from one_stages import small

    return small("fcos")


def ssd() -> Any:
    from one_stages import small

    return small("ssd")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one picture of noise."""
    folder = tmp_path_factory.mktemp("photo")
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 110, 3), np.uint8)).save(folder / "noise.png")
    return folder


def annotated(folder: Path, model: str) -> Path:
    """Annotations that say of the picture what the model says: every one of its best boxes is an object."""
    found = detxai.wrap(model).detect(folder / "noise.png", 0.05)[:2]
    assert len(found) == 2, "the seeded model finds something"
    boxes = found.boxes.tolist()
    record = {
        "images": [{"id": 1, "file_name": "noise.png", "width": 110, "height": 80}],
        "categories": [{"id": int(label), "name": found.name(i)} for i, label in enumerate(found.labels)][: 1 + (
            found.labels[0] != found.labels[1]
        )],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
             "area": (x1 - x0) * (y1 - y0)}
            for i, (label, (x0, y0, x1, y1)) in enumerate(zip(found.labels.tolist(), boxes, strict=True), 1)
        ],
    }  # fmt: skip
    path = folder / f"{model.rpartition(':')[2]}.json"
    path.write_text(json.dumps(record))
    return path


def measured(out: Path, methods: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every method has a finite insertion and deletion for every detection, and nothing failed."""
    summary = json.loads(capsys.readouterr().out)
    assert summary["failures"] == []
    rows = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    for method in methods.split(","):
        values = [row["value"] for row in rows if row["method"] == method and row["quantity"] == "insertion"]
        assert len(values) == summary["detections"] > 0
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", ["retinanet", "fcos", "ssd"])
def test_one_stage_families(name: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"{Path(__file__)}:{name}"
    inputs = ("--images", str(photo), "--annotations", str(annotated(photo, model)), "--score-threshold", "0.05")
    assert main(["evaluate", "--model", model, *inputs, "--methods", NETWORK, "--max-detections", "2",
                 "--out", str(tmp_path / "out"), *QUICK]) == 0  # fmt: skip
    measured(tmp_path / "out", NETWORK, capsys)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    annotations = export_coco(tmp_path_factory.mktemp("coco") / "scenes", 1, seed=3)
    return ("--images", str(annotations.parent), "--annotations", str(annotations), "--max-detections", "1")


def test_a_query_detector(scene: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    methods = "layer_cam,attention,d_rise,pixel_evidence"
    assert main(["evaluate", "--model", "scenes-rtdetr", *scene, "--methods", methods,
                 "--out", str(tmp_path / "out"), *QUICK]) == 0  # fmt: skip
    measured(tmp_path / "out", methods, capsys)


def test_slices(scene: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", "scenes-frcnn", "--slices", "1,2,0.2", *scene, "--methods", BLACK_BOX,
                 "--out", str(tmp_path / "out"), *QUICK]) == 0  # fmt: skip
    measured(tmp_path / "out", BLACK_BOX, capsys)


def test_an_exported_file(scene: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ultralytics")
    path = tmp_path / "scenes.torchscript"
    yolo = load_scenes_yolo()
    torch.jit.trace(FirstOutput(yolo.model.float().eval()), torch.rand(1, 3, 160, 160), check_trace=False).save(
        str(path)
    )
    names = tmp_path / "names.json"
    names.write_text(json.dumps(yolo.names))
    command = ["evaluate", "--model", str(path), "--layout", "yolo", "--input-size", "160", "--class-names", str(names)]
    assert main([*command, *scene, "--methods", BLACK_BOX, "--out", str(tmp_path / "out"), *QUICK]) == 0
    measured(tmp_path / "out", BLACK_BOX, capsys)


def test_a_layout_is_for_exported_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["explain", "x.png", "--model", "scenes-frcnn", "--layout", "yolo", "--out", str(tmp_path / "out")]
    (tmp_path / "x.png").write_bytes(b"")
    assert main([*given[:1], str(tmp_path / "x.png"), *given[2:]]) == 2
    assert "--layout is for exported" in capsys.readouterr().err
