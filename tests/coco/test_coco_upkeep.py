"""Beside a long run: the estimate is of that run, the status is what its folder holds, merging loses nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from coco_files import detected_dataset

import detxai.coco
from detxai.cli import main
from detxai.coco.schema import TIMED
from detxai.coco.upkeep.merge import merge
from detxai.coco.upkeep.status import status
from detxai.runs.tables import import_pyarrow

pytest.importorskip("pyarrow")

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"))


def arguments(data: dict[str, Path], out: Path, *more: object) -> list[str]:
    given = ["coco", "--model", MODEL, "--images", data["images"], "--annotations", data["annotations"], "--out", out]
    return [*map(str, [*given, "--method", "eigen_cam", "--rows-per-part", 16, "--map-stride", 4, *more])]


@pytest.fixture(scope="module")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(arguments(data, out)) == 0
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in detxai.coco.load(out).rows()]


# --- what it will take -------------------------------------------------------------------------------------------


def estimated(data: dict[str, Path], out: Path, capsys: pytest.CaptureFixture[str], *more: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(arguments(data, out, "--dry-run", "--json", *more)) == 0
    assert not out.exists()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_of_a_data_set_that_the_sample_holds_whole_the_counts_are_exact(
    whole: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = estimated(data, tmp_path / "out", capsys)
    table = import_pyarrow().parquet.read_table(whole / "explanations", columns=["image_id"])
    assert found["exact"]
    assert (found["n_boxes"], found["n_images"]) == (table.num_rows, 6)
    assert found["n_images_with_boxes"] == len(set(table["image_id"].to_pylist()))
    on_disk = sum(path.stat().st_size for path in (whole / "explanations").iterdir())
    assert 0.3 * on_disk < found["bytes"] < 3 * on_disk  # a file has a fixed part, and the sample few rows
    assert found["seconds"] > 0


def test_a_narrower_selection_is_less(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert estimated(data, tmp_path / "out", capsys, "--worst", 7)["n_boxes"] == 7
    two = estimated(data, tmp_path / "out", capsys, "--max-images", 2)
    assert two["n_images_with_boxes"] == 2


def test_the_estimate_in_words(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(data, tmp_path / "out", "--dry-run", "--worst", 3)) == 0
    said = capsys.readouterr().out
    for line in ("images  6", "boxes   3", "passes  about", "time    about", "disk    about", "nothing was written"):
        assert line in said


# --- how far it is -----------------------------------------------------------------------------------------------


def test_the_status_is_what_the_folder_holds(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = status(whole)
    assert (found.stage, found.n_boxes, found.n_explained) == ("finished", len(rows(whole)), len(rows(whole)))
    out = shutil.copytree(whole, tmp_path / "out")
    parts = sorted((out / "explanations").iterdir())
    n_gone = import_pyarrow().parquet.read_metadata(parts[1]).num_rows
    parts[1].unlink()
    (out / "report.html").unlink()
    found = status(out, n_shards=2)
    assert (found.stage, found.n_explained) == ("explaining", len(rows(whole)) - n_gone)
    assert (found.n_parts_done, found.n_parts) == (len(parts) - 1, len(parts))
    assert found.shards[1][0] == found.shards[1][1] - 1
    assert found.shards[0][0] == found.shards[0][1]
    assert main(["coco", "status", str(out), "--shards", "2"]) == 0
    assert "stage     explaining" in capsys.readouterr().out
    (out / "boxes.parquet").unlink()
    assert status(out).stage == "detecting"


def test_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coco", "status", str(tmp_path)]) == 2
    assert "must be a folder that detxai coco wrote" in capsys.readouterr().err


# --- shards in one -----------------------------------------------------------------------------------------------


def test_shards_on_disks_of_their_own_merge_into_the_whole(
    whole: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = [tmp_path / f"shard{n}" for n in (1, 2)]
    for n, shard in enumerate(shards, start=1):
        assert main(arguments(data, shard, "--shard", f"{n}/2")) == 0
        assert not (shard / "report.html").exists()
    assert main(["coco", "merge", str(tmp_path / "out"), *map(str, shards)]) == 0
    assert rows(tmp_path / "out") == rows(whole)
    assert f"--config {tmp_path / 'out' / 'run.yaml'}" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "explanations").iterdir()}
    assert main(["coco", "--config", str(tmp_path / "out" / "run.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is explained again
    assert (tmp_path / "out" / "report.html").is_file()
    assert status(tmp_path / "out").stage == "finished"


def test_folders_of_different_runs_do_not_merge(whole: Path, data: dict[str, Path], tmp_path: Path) -> None:
    assert main(arguments(data, tmp_path / "other", "--worst", 2)) == 0
    with pytest.raises(ValueError, match=r"holds another run than .* \(selection"):
        merge(tmp_path / "out", [whole, tmp_path / "other"])
    assert not (tmp_path / "out").exists()
