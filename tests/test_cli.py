"""``detxai explain`` from end to end, on a small seeded detector."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from small_disks import remount

import detxai.commands.explain.run
from detxai.cli import main

MODEL = f"{Path(__file__).with_name('faster_rcnns.py')}:small_faster_rcnn"


def photo(path: Path, height: int = 60, width: int = 80, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def explain(*arguments: object) -> int:
    return main(["explain", *map(str, arguments), "--model", MODEL])


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_box_gets_its_overlay_map_and_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "deep" / "out"
    arguments = (image, "--method", "ablation_cam", "--out", out, "--score-threshold", 0.3)
    assert explain(*arguments, "--set", "ratio_channels_to_ablate=0.25", "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)["images"]
    n = len(summary["detections"])
    assert n > 0
    assert len(files(out / "a")) == 3 * n + 1
    for entry in summary["detections"]:
        record = json.loads((out / "a" / entry["overlay"]).with_suffix(".json").read_text())
        values = np.load((out / "a" / entry["overlay"]).with_suffix(".npz"))["values"]
        assert values.shape == (60, 80)
        assert record["detection"]["box"] == entry["box"]
        assert record["settings"]["ratio_channels_to_ablate"] == 0.25
        assert record["request"]["model"] == MODEL


def test_the_record_holds_the_command_that_redoes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = photo(tmp_path / "my photo.png"), tmp_path / "out"
    assert explain(image, "--method", "eigen_cam", "--out", out, "--score-threshold", 0.3) == 0
    first = np.load(out / "my_photo/00_image.npz")["values"]
    redo = json.loads((out / "my_photo/00_image.json").read_text())["request"]["redo"]
    (out / "my_photo/00_image.npz").unlink()
    assert main(shlex.split(redo)[1:]) == 0
    assert np.array_equal(np.load(out / "my_photo/00_image.npz")["values"], first)


def test_one_map_an_image_where_no_box_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert explain(photo(tmp_path / "a.png"), "--method", "eigen_cam", "--out", out) == 0
    assert files(out) == {"a/00_image.png", "a/00_image.npz", "a/00_image.json", "a/detections.json"}
    assert "map  00_image.png" in capsys.readouterr().out


def test_images_of_one_name_get_folders_of_their_own(tmp_path: Path) -> None:
    paths = [photo(tmp_path / folder / "bus.png", seed=i) for i, folder in enumerate("ab")]
    assert explain(*paths, "--method", "eigen_cam", "--out", tmp_path / "out") == 0
    maps = [np.load(tmp_path / "out" / name / "00_image.npz")["values"] for name in ("bus", "bus-2")]
    assert not np.array_equal(*maps)


def test_a_damaged_image_among_several_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = photo(tmp_path / "good.png"), tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    assert explain(bad, good, "--method", "eigen_cam", "--out", tmp_path / "out", "--json") == 1
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert [failure["image"] for failure in summary["failures"]] == [str(bad)]
    assert f"detxai: error: {bad}: image:" in printed.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good"}


def test_class_names_stay_in_their_folder(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("background\n../../up\n/etc/x\n..\n$5 note\n")
    out = tmp_path / "out"
    arguments = ("--method", "ablation_cam", "--set", "ratio_channels_to_ablate=0.1", "--class-names", names)
    assert explain(photo(tmp_path / "a.png"), *arguments, "--out", out, "--score-threshold", 0.2) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "names.txt", "out"}
    assert {path.name for path in out.iterdir()} == {"a"}
    recorded = json.loads((out / "a/detections.json").read_text())["detections"]
    assert {entry["name"] for entry in recorded} <= {"../../up", "/etc/x", "..", "$5 note"}


def test_a_second_run_leaves_nothing_of_the_first_and_all_of_the_users(tmp_path: Path) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    arguments = (image, "--method", "ablation_cam", "--set", "ratio_channels_to_ablate=0.1", "--out", out)
    assert explain(*arguments, "--score-threshold", 0.2) == 0
    (out / "a" / "notes.txt").write_text("mine")
    assert explain(*arguments, "--score-threshold", 1) == 0
    assert files(out) == {"a/detections.json", "a/notes.txt"}


def test_without_a_method_the_default_answers_and_a_long_wait_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert explain(image, "--set", "max_passes=1", "--out", out, "--score-threshold", 0.2) == 0
    assert "minutes" not in capsys.readouterr().err
    assert json.loads((out / "a" / "detections.json").read_text())["method"] == "pixel_evidence"
    monkeypatch.setattr(detxai.commands.explain.run, "LONG", 0)
    assert explain(image, "--set", "max_passes=1", "--out", out, "--score-threshold", 0.2) == 0
    told = capsys.readouterr().err
    assert "minutes with pixel_evidence" in told
    assert "--method layer_cam" in told


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("99 GiB"), MemoryError(), OSError("stale file handle")])
def test_whatever_an_image_fails_of_the_others_go_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def failing(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return whole(*arguments, **settings)

    whole = detxai.commands.explain.run.explain
    monkeypatch.setattr(detxai.commands.explain.run, "explain", failing)
    paths = [photo(tmp_path / f"{name}.png") for name in "abc"]
    assert explain(*paths, "--method", "eigen_cam", "--out", tmp_path / "out", "--json") == 1
    printed = capsys.readouterr()
    assert [failure["image"] for failure in json.loads(printed.out)["failures"]] == [str(paths[1])]
    assert f"detxai: error: {paths[1]}: {type(error).__name__}: {error}".strip() in printed.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "c"}


def test_where_the_first_images_all_fail_it_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [photo(tmp_path / f"{place}.png") for place in range(25)]
    arguments = ("--method", "eigen_cam", "--set", "layers=no.such.layer", "--out", tmp_path / "out")
    assert explain(*paths, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 21
    assert "stopped: the first 20 images all failed; the last error: " in lines[-1]
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_it_and_what_is_done_is_whole(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [photo(tmp_path / f"{place}.png") for place in range(9)]
    remount(small_disk, "size=400k")  # one image's explanation fits, and no second
    out = small_disk / "out"
    assert explain(*paths, "--method", "eigen_cam", "--out", out, "--json") == 1
    printed = capsys.readouterr()
    done = json.loads(printed.out)["images"]
    assert 0 < len(done) < 9
    assert "cannot be written: No space left on device" in printed.err
    assert {path.name for path in out.iterdir()} == {str(place) for place in range(len(done))}
    assert files(out) == {f"{i}/{name}" for i in range(len(done)) for name in ("detections.json", *done[i]["files"])}


def test_on_a_read_only_disk_nothing_is_done(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remount(small_disk, "ro")
    image = photo(tmp_path / "a.png")
    assert explain(image, "--method", "eigen_cam", "--out", small_disk / "out") == 2
    assert "out cannot be written: Read-only file system" in capsys.readouterr().err


def test_killed_while_files_move_the_next_run_knows_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    arguments = (image, "--method", "ablation_cam", "--set", "ratio_channels_to_ablate=0.1", "--out", out)
    assert explain(*arguments, "--score-threshold", 0.2) == 0
    before = files(out)
    replace = Path.replace

    def killed(self: Path, target: Any) -> Any:
        if Path(target).parent == out / "a" and Path(target).suffix == ".npz":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        assert explain(image, "--method", "eigen_cam", "--out", out) == 130
    assert json.loads((out / "a" / "detections.json").read_text())["complete"] is False
    assert explain(*arguments, "--score-threshold", 0.2) == 0
    assert files(out) == before


def test_ctrl_c_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **settings)

    whole = detxai.commands.explain.run.explain
    monkeypatch.setattr(detxai.commands.explain.run, "explain", interrupted)
    paths = [photo(tmp_path / f"{name}.png") for name in "abc"]
    assert explain(*paths, "--method", "eigen_cam", "--out", tmp_path / "out") == 130
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a"}
    assert "interrupted" in capsys.readouterr().err


def test_ctrl_c_in_d_rise_saves_the_partial_map_and_stops(tmp_path: Path) -> None:
    factory = tmp_path / "tired.py"
    factory.write_text(
        "def build():\n"
        "    calls = []\n"
        "    def detect(images):\n"
        "        calls.append(len(images))\n"
        "        if len(calls) == 8:\n"
        "            raise KeyboardInterrupt\n"
        "        return [{'boxes': [[1, 1, 9, 9]], 'scores': [i.mean() / 255], 'labels': [0]} for i in images]\n"
        "    return detect\n"
    )
    paths = [photo(tmp_path / f"{name}.png") for name in "ab"]
    out = tmp_path / "out"
    arguments = ["--model", f"{factory}:build", "--method", "d_rise", "--score-threshold", "0", "--out", str(out)]
    assert main(["explain", *map(str, paths), *arguments]) == 130
    assert {path.name for path in out.iterdir()} == {"a"}
    record = json.loads((out / "a" / "detections.json").read_text())
    assert record["partial"] is True
    assert json.loads((out / "a" / "00_0.json").read_text())["partial"] is True


def test_real_photos_with_a_coco_yolo(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assets = pytest.importorskip("ultralytics.utils").ASSETS
    model = str(shared_data / "yolov8n_coco.pt")
    command = ["explain", str(assets / "bus.jpg"), "--model", model, "--method", "eigen_cam", "--json"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["images"]
    assert sorted(entry["name"] for entry in summary["detections"]) == ["bus"] + ["person"] * 4
    assert summary["request"]["weights_sha256"]


@pytest.mark.parametrize("option", ["--out", "--min-score", "--method"])
def test_two_dashes_are_no_value(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        explain(photo(tmp_path / "a.png"), f"{option}=--")
    assert stopped.value.code == 2
    assert f"argument {option}: expected a value, got '--'" in capsys.readouterr().err


def test_only_the_boxes_asked_for_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = photo(tmp_path / "a.png")
    arguments = (image, "--method", "layer_cam", "--score-threshold", 0.3, "--json")
    assert explain(*arguments, "--out", tmp_path / "all") == 0
    every = json.loads(capsys.readouterr().out)["images"][0]["detections"]
    assert explain(*arguments, "--out", tmp_path / "some", "--boxes", "2,0") == 0
    (summary,) = json.loads(capsys.readouterr().out)["images"]
    assert [entry["box"] for entry in summary["detections"]] == [every[2]["box"], every[0]["box"]]
    assert "--boxes 2,0" in summary["request"]["redo"]
    assert explain(*arguments, "--out", tmp_path / "none", "--boxes", str(len(every))) == 2
    assert f"there are {len(every)} detections, numbered from 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        explain(*arguments, "--out", tmp_path / "none", "--boxes", "1,1")


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        (["--model", "scene-frcn"], "scenes-frcnn"),
        (["--model", MODEL, "--set", "max_pases=3"], "max_passes"),
        (["--model", MODEL, "--method", "LayerCAM"], "layer_cam"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(
    options: list[str], nearest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(photo(tmp_path / "a.png")), *options, "--out", str(tmp_path / "out")]) == 2
    assert f"did you mean {nearest!r}?" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
