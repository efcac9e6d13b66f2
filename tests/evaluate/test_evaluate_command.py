"""``detxai evaluate`` from end to end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest

import detxai.evaluate.evaluation_run
from detxai.cli import main
from detxai.scenes import export_coco

FAST = ("--measures", "energy,sparseness", "--no-progress")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images and annotations of a few scenes: what a user would bring."""
    annotations = export_coco(tmp_path_factory.mktemp("coco") / "scenes", 6, seed=3)
    first = json.loads(annotations.read_text())["images"][0]["file_name"]
    places = (annotations.parent, annotations.parent / "images")
    return next(place for place in places if (place / first).is_file()), annotations


def evaluate(*arguments: object) -> int:
    return main(["evaluate", "--model", "scenes-frcnn", *map(str, arguments)])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_images_and_annotations(scenes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, annotations = scenes
    arguments = ("--images", images, "--annotations", annotations, "--out", tmp_path / "out", *FAST)
    methods = ("--methods", "eigen_cam,coarse=random,random,box", "--set", "coarse.cells=2")
    assert evaluate(*arguments, *methods, "--max-detections", 5, "--json") == 0
    summary = printed(capsys)
    assert summary["detections"] == 5
    assert {entry["method"] for entry in summary["methods"]} == {"eigen_cam", "coarse", "random", "box"}
    (energy,) = [entry for entry in summary["quantities"] if entry["quantity"] == "energy_box"]
    assert energy["standings"][0] == {
        "method": "box", "rank": 1, "mean": 1, "low": 1, "high": 1, "detections": 5, "behind_best": None,
    }  # fmt: skip
    files = {path.name for path in (tmp_path / "out").iterdir()}
    written = {"request.json", "parts", "results.parquet", "summary.json", "failures.json", "index.html"}
    assert files == {*written, "run.yaml"}
    table = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert {json.loads(row["settings"])["cells"] for row in table if row["method"] == "coarse"} == {2}
    request = json.loads((tmp_path / "out" / "request.json").read_text())["request"]
    assert str(tmp_path) not in json.dumps(request)
    assert evaluate(*arguments, *methods, "--max-detections", 5) == 0  # the same again: a table for people
    text = capsys.readouterr().out
    assert "energy_box (higher is better" in text
    assert f"open {tmp_path / 'out' / 'index.html'}" in text


def test_scenes_of_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--scenes", "context,joint", "--n-scenes", 1, "--methods", "planted", "--out", tmp_path / "out")
    assert evaluate(*arguments, "--measures", "evidence_mass,insertion_deletion", "--steps", 2, "--fill", "mean",
                    "--score", "similarity", "--json", "--no-progress") == 0  # fmt: skip
    table = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert {row["kind"] for row in table} == {"context", "joint"}
    curves = [row for row in table if row["measure"] == "insertion_deletion"]
    assert {(row["steps"], row["fill"], row["score_function"]) for row in curves} == {(2, "mean", "similarity")}
    assert [row["value"] for row in table if row["quantity"] == "evidence_mass"]
    assert printed(capsys)["strata"]["kind"]["evidence_mass"]["joint"]["planted"]["mean"] == 1


def test_several_fills_are_measured_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row names its fill; the time that the rest takes is said after the first image."""
    arguments = ("--scenes", "local", "--n-scenes", 2, "--methods", "planted,random", "--out", tmp_path / "out")
    assert evaluate(*arguments, "--measures", "insertion_deletion", "--steps", 2, "--fill", "black,mean",
                    "--json", "--no-progress") == 0  # fmt: skip
    assert " to go: " in capsys.readouterr().err
    table = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    of_quantity = {row["quantity"]: (row["fill"], row["unit"]) for row in table}
    assert of_quantity["overall_black"] == ("black", "pixel")
    assert of_quantity["overall_normalised_mean"] == ("mean", "pixel")
    assert of_quantity["clean_score"] == (None, "pixel")
    assert "overall normalised mean" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_superpixels_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each detection's curves are over shares of its own; the page draws their mean all the same."""
    pytest.importorskip("skimage")
    arguments = ("--scenes", "local", "--n-scenes", 2, "--methods", "planted,random", "--out", tmp_path / "out")
    assert evaluate(*arguments, "--measures", "insertion_deletion", "--steps", 3, "--unit", "superpixel",
                    "--json", "--no-progress") == 0  # fmt: skip
    table = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert {row["unit"] for row in table} == {"superpixel"}
    assert "share of the pixels shown" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_damaged_image_is_skipped_and_told(scenes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, annotations = scenes
    content = json.loads(annotations.read_text())
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.png"
    for number, image in enumerate(content["images"][:3]):
        pixels = np.asarray(PIL.Image.open(next(scenes[0].rglob("*.png"))))
        PIL.Image.fromarray(pixels).save(tmp_path / image["file_name"])
        if number == 1:
            (tmp_path / image["file_name"]).write_bytes(b"no image")
    (tmp_path / "x.json").write_text(json.dumps(content))
    arguments = ("--images", tmp_path, "--annotations", tmp_path / "x.json", "--out", tmp_path / "out", *FAST)
    assert evaluate(*arguments, "--methods", "random", "--unmatched", "--score-threshold", 0.05) == 1
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert len(failures) == len(content["images"]) - 2  # the damaged one and those that are not there
    assert "is not an image" in failures[0]["error"]
    assert "no such file" in failures[1]["error"]
    assert f"{len(failures)} failures: " in capsys.readouterr().out


def test_ctrl_c_leaves_a_folder_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--scenes", "local", "--n-scenes", 2, "--methods", "random,box", "--out", tmp_path / "out", *FAST)
    measure = detxai.evaluate.evaluation_run.measure_some
    calls: list[int] = []

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given)

    with monkeypatch.context() as patch:
        patch.setattr(detxai.evaluate.evaluation_run, "measure_some", interrupted)
        assert evaluate(*arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    assert evaluate(*arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --images and --annotations, or --scenes"),
        (("--images", "tests"), "must hold images"),
        (("--scenes", "local", "--images", "."), "--scenes takes the place of --images and --annotations"),
        (("--scenes", "locale"), "scenes must be some of local, .*got locale; did you mean 'local'"),
        (("--scenes", "local", "--measures", "energetic"), "measures must be some of .*got 'energetic'"),
        (("--scenes", "local", "--set", "d_rise.n_masks=5"), "settings are for d_rise, but the .* only random"),
        (("--scenes", "local", "--set", "random.seed=1", "--set", "random.seed=2"), "each name once"),
        (("--images", ".", "--annotations", "none.json"), "annotations: no such file: none.json"),
        (
            ("--scenes", "local", "--model", "fasterrcnn_resnet50_fpn", "--input-size", "320"),
            "--input-size is for YOLO",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--methods", "random", "--out", tmp_path / "out", "--no-progress", *arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "cells=2"),
        ("--methods", "a,,b"),
        ("--score", "A"),
        ("--set", "a.b"),
        ("--steps", "0"),
        ("--fill", "grey"),
        ("--fill", "mean,mean"),
        ("--unit", "patch"),
    ],
)
def test_malformed_options_are_usage_errors(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate("--methods", "random", "--scenes", "local", "--out", tmp_path / "out", *arguments)


@pytest.mark.slow
def test_real_photos_with_a_coco_yolo(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ultralytics")
    data = shared_data / "coco_dev"
    code = main(
        ["evaluate", "--model", str(shared_data / "yolov8n_coco.pt"), "--input-size", "160", "--images",
         str(data / "images"), "--annotations", str(data / "instances.json"), "--max-images", "4",
         "--max-detections", "2", "--methods", "eigen_cam,layer_cam,ultralytics_layer_cam,grad_cam_eigen_cam,random",
         "--steps", "4", "--out", str(tmp_path / "out"), "--json", "--no-progress"]
    )  # fmt: skip
    assert code == 0
    summary = printed(capsys)
    assert summary["detections"] == 2
    assert {"insertion", "visual_accuracy", "road", "leakage"} & {q["quantity"] for q in summary["quantities"]}
