"""The scripts that users copy run, on small seeded detectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from example_scripts import run_example

from detxai.scenes import generate

MODELS = Path(__file__).parents[1] / "faster_rcnns.py"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_explain_photo_offline_with_nothing_given(tmp_path: Path) -> None:
    printed = run_example("explain_photo.py", "--method", "eigen_cam", "--out", tmp_path / "out")
    assert "eigen_cam · asks about no box" in printed
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"00.png", "00.npz", "00.json"}


@pytest.mark.slow
def test_grad_cam_on_a_faster_rcnn(tmp_path: Path, image: Path) -> None:
    model = f"{MODELS}:small_faster_rcnn"
    out = tmp_path / "out"
    printed = run_example(
        "grad_cam_with_detxai.py", "--model", model, "--image", image, "--score-threshold", 0.1, "--out", out
    )
    assert "EigenCAM on the backbone" in printed
    assert {file.stem for file in out.iterdir()} == {"GradCAM", "HiResCAM", "LayerCAM", "EigenCAM"}


@pytest.mark.slow
def test_grad_cam_on_a_yolo(tmp_path: Path, image: Path) -> None:
    pytest.importorskip("ultralytics")
    factory = tmp_path / "yolos.py"
    folder = MODELS.parent / "adapters"
    factory.write_text(
        f"import sys; sys.path.insert(0, {str(folder)!r})\nfrom yolo_seeded import seeded\n"
        f"def build():\n    return seeded('v8')\n"
    )
    out = tmp_path / "out"
    run_example(
        "grad_cam_with_detxai.py", "--model", f"{factory}:build", "--image", image, "--score-threshold", 0, "--out", out
    )
    assert {file.stem for file in out.iterdir()} == {"GradCAM", "HiResCAM", "LayerCAM", "EigenCAM"}


@pytest.mark.slow
def test_explain_onnx_agrees_with_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    printed = run_example("explain_onnx.py", "--n-masks", 48, "--out", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"00.png", "detector.onnx"}
    assert "house-sun 1.00 · d_rise" in printed
    assert float(printed.rsplit(maxsplit=1)[-1]) > 0.9999


@pytest.mark.slow
def test_d_rise_convergence_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    PIL.Image.fromarray(generate(seed=501, kind="local").image).save(folder / "a.png")
    command = ["--model", "scenes-frcnn", "--images", folder, "--out", tmp_path / "out", "--n-images", 1]
    printed = run_example("d_rise_convergence.py", *command, "--n-masks", 128)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.npz", "convergence.json", "convergence.png"}
    (tmp_path / "out" / "convergence.json").unlink()
    assert run_example("d_rise_convergence.py", *command, "--n-masks", 128) == printed
    record = json.loads((tmp_path / "out" / "convergence.json").read_text(encoding="utf-8"))
    assert record["masks"] == [8, 16, 32, 64, 128]
    assert record["rank_correlation"]["regression"][-1] > record["rank_correlation"]["none"][0]


@pytest.mark.slow
def test_ablation_ratio_prints_what_few_channels_give(tmp_path: Path) -> None:
    PIL.Image.fromarray(generate(seed=501, kind="local").image).save(tmp_path / "a.png")
    printed = run_example(
        "ablation_ratio.py", "--model", "scenes-frcnn", tmp_path / "a.png", "--json", tmp_path / "ratio.json"
    )
    assert "1 images" in printed
    rows = {row["ratio"]: row for row in json.loads((tmp_path / "ratio.json").read_text(encoding="utf-8"))}
    assert rows[0.1]["channels"] == 32
    assert rows[0.7]["rank_correlation"] > 0.99
