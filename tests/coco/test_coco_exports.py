"""A run in other tools, read back by each tool's own library."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from coco_files import detected_dataset
from faster_rcnns import small_faster_rcnn

import detxai.coco
from detxai.cli import main
from detxai.coco.exports import (
    fiftyone_samples,
    label_studio_config,
    to_datasets,
    to_fiftyone,
    to_label_studio,
    to_supervision,
    to_wandb,
)
from detxai.coco.exports.images import heat_of
from detxai.commands.choices import EXPORTS
from detxai.data.coco_files import read_annotations
from detxai.data.error_kinds import KINDS
from detxai.images import open_image

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    data = detected_dataset(folder, n_images=3)
    done = detxai.coco.explain_errors(
        read_annotations(data["annotations"]), None, small_faster_rcnn(), images=data["images"], out=folder / "out",
        method="eigen_cam", labels="by-id", operating_point=0.2, report=False,
        selection=detxai.coco.Selection(kinds=KINDS[:-1]),
    )  # fmt: skip
    assert done.complete
    return done.folder


@pytest.fixture(scope="module")
def explained(out: Path) -> detxai.coco.ExplainedBoxes:
    return detxai.coco.load(out)


def rows_of(explained: detxai.coco.ExplainedBoxes) -> dict[int, list[dict[str, Any]]]:
    """Image id -> its rows."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in explained.rows():
        found.setdefault(row["image_id"], []).append(row)
    assert len(found) == 3
    return found


def test_a_heat_is_255_at_its_peak_and_0_without_evidence(explained: detxai.coco.ExplainedBoxes) -> None:
    for index, row in enumerate(explained.rows()):
        values, heat = explained.values(index), heat_of(row)
        assert heat.shape == values.shape
        assert heat.max() == (255 if values.max() > 0 else 0)
        assert not heat[values <= 0].any()


def test_hugging_face_datasets(explained: detxai.coco.ExplainedBoxes, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs detxai[datasets]")
    made = to_datasets(explained.filter(kind=["missed", "background"]))
    made.save_to_disk(str(tmp_path / "saved"))
    back = datasets.load_from_disk(str(tmp_path / "saved"))
    chosen = explained.filter(kind=["missed", "background"])
    assert len(back) == len(chosen) > 0
    for ours, theirs in zip(chosen.rows(), back, strict=True):
        assert back.features["kind"].int2str(theirs["kind"]) == ours["kind"]
        for name in ("row", "category", "box", "score", "iou", "stage", "map_scale"):
            assert theirs[name] == ours[name]
        values = theirs["map_offset"] + theirs["map_scale"] * np.asarray(theirs["map"], dtype=np.float64)
        assert np.array_equal(values.astype(np.float32), detxai.coco.dataset.values_of(ours))
        assert theirs["image"].size == (ours["image_width"], ours["image_height"])
    moved = tmp_path / "moved"
    shutil.copytree(str(explained.images), moved)
    assert back[0]["image"].convert("RGB").tobytes() == PIL.Image.open(
        moved / chosen.row(0)["file_name"]
    ).convert("RGB").tobytes()  # fmt: skip


def test_label_studios_own_check_accepts_the_tasks(explained: detxai.coco.ExplainedBoxes) -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="needs label-studio-sdk")
    names = {row["category"] for row in explained.rows()}
    interface = sdk.LabelInterface(label_studio_config([*names, 'a "quoted" & <name>']))
    tasks = list(to_label_studio(explained))
    for task, rows in zip(tasks, rows_of(explained).values(), strict=True):
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        assert interface.validate_task({"data": json.loads(json.dumps(task["data"]))})
        rectangles = [one for one in prediction["result"] if one["type"] == "rectanglelabels"]
        for one, row in zip(rectangles, rows, strict=True):
            value, width, height = one["value"], one["original_width"], one["original_height"]
            assert value["rectanglelabels"] == [row["category"]]
            corners = [
                value["x"] * width / 100,
                value["y"] * height / 100,
                (value["x"] + value["width"]) * width / 100,
                (value["y"] + value["height"]) * height / 100,
            ]
            clipped = np.clip(row["box"], 0, [width, height, width, height])
            assert corners == pytest.approx(clipped.tolist(), abs=1e-9)
        kinds = [one["value"]["choices"] for one in prediction["result"] if one["type"] == "choices"]
        assert kinds == [[row["kind"]] for row in rows]
    assert interface.validate_prediction({"result": [{"nonsense": 1}]}, return_errors=True)  # the check can fail


def test_label_studios_own_converter_reads_the_boxes_back(
    explained: detxai.coco.ExplainedBoxes, tmp_path: Path
) -> None:
    """Its COCO export of the tasks, once an annotator has accepted all predictions, has the boxes of the run."""
    converter = pytest.importorskip("label_studio_sdk.converter", reason="needs label-studio-sdk")
    tasks = list(to_label_studio(explained, address=lambda name: str(explained.images / name)))
    accepted = [{"id": i, "data": task["data"], "annotations": task["predictions"]} for i, task in enumerate(tasks)]
    (tmp_path / "tasks.json").write_text(json.dumps(accepted))
    config = label_studio_config({row["category"] for row in explained.rows()})
    exporter = converter.Converter(config, project_dir=None, download_resources=False)
    exporter.convert_to_coco(str(tmp_path / "tasks.json"), str(tmp_path / "exported"), is_dir=False)
    exported = json.loads((tmp_path / "exported/result.json").read_text())
    names = {one["id"]: one["name"] for one in exported["categories"]}
    for image, rows in zip(exported["images"], rows_of(explained).values(), strict=True):
        assert Path(image["file_name"]).name == rows[0]["file_name"]
        found = [one for one in exported["annotations"] if one["image_id"] == image["id"]]
        assert [names[one["category_id"]] for one in found] == [row["category"] for row in rows]
        limits = [image["width"], image["height"], image["width"], image["height"]]
        for one, row in zip(found, rows, strict=True):
            x1, y1, x2, y2 = np.clip(row["box"], 0, limits)
            assert one["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-9)


def test_supervision(explained: detxai.coco.ExplainedBoxes, out: Path, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="needs detxai[supervision]")
    for (path, detections), rows in zip(to_supervision(explained), rows_of(explained).values(), strict=True):
        assert isinstance(detections, supervision.Detections)
        assert path.name == rows[0]["file_name"]
        assert detections.data["kind"].tolist() == [row["kind"] for row in rows]
        missed = detections[detections.data["kind"] == "missed"]
        assert len(missed) == sum(row["kind"] == "missed" for row in rows)
        assert np.array_equal(detections.data["heatmap"][0], heat_of(rows[0]))
        assert detxai.formats.from_supervision(detections).labels.tolist() == [row["label"] for row in rows]
    assert main(["coco", "export", str(out), "--to", "supervision", "--into", str(tmp_path / "drawn")]) == 0
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert len(drawn) == 3
    assert PIL.Image.open(drawn[0]).size == (80, 60)
    assert main(["coco", "export", str(out), "--to", "supervision", "--into", str(tmp_path / "drawn")]) == 2


def test_tensorboard(explained: detxai.coco.ExplainedBoxes, out: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(["coco", "export", str(out), "--to", "tensorboard", "--into", str(tmp_path)]) == 0
    read = events.EventAccumulator(str(tmp_path), {"images": 0})
    read.Reload()
    record = json.loads((out / "evaluation.json").read_text())
    scalars = {tag: read.Scalars(tag)[0].value for tag in read.Tags()["scalars"]}
    for kind, n in record["kinds"].items():
        assert scalars[f"detxai/boxes/{kind}"] == n
    for kind, gain in record["delta_ap"].items():
        assert scalars[f"detxai/delta AP/{kind}"] == pytest.approx(gain)
    kinds = [row["kind"] for row in explained.rows()]
    shown = [tag.partition("/")[0] for tag in read.Tags()["images"]]
    assert {kind: shown.count(kind) for kind in shown} == {kind: min(8, kinds.count(kind)) for kind in kinds}
    picture = read.Images(read.Tags()["images"][0])[0]
    assert (picture.width, picture.height) == (80, 60)


@pytest.mark.slow
def test_weights_and_biases_offline(
    explained: detxai.coco.ExplainedBoxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs detxai[wandb]")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    with wandb.init(mode="offline", project="detxai", dir=str(tmp_path)) as logged:
        table = to_wandb(explained, logged, most=2)
        folder = Path(logged.dir)
    kinds = [row["kind"] for row in explained.rows()]
    expected = sum(min(2, kinds.count(kind)) for kind in set(kinds))
    assert len(table.data) == expected
    (written,) = folder.rglob("*.table.json")
    content = json.loads(written.read_text())
    assert content["columns"][:4] == ["explanation", "row", "file_name", "kind"]
    by_row = {row["row"]: row for row in explained.rows()}
    assert all(by_row[number]["kind"] == kind for _, number, _, kind, *_ in content["data"])
    sizes = []
    for staged in (tmp_path / "artifacts/staging").iterdir():  # what a later wandb sync sends
        with contextlib.suppress(PIL.UnidentifiedImageError):
            sizes.append(open_image(staged).size)
    assert sizes == [(80, 60)] * expected


def test_fiftyone_samples(explained: detxai.coco.ExplainedBoxes) -> None:
    """Its labels need no database."""
    fiftyone = pytest.importorskip("fiftyone", reason="needs detxai[fiftyone]")
    for sample, rows in zip(fiftyone_samples(explained), rows_of(explained).values(), strict=True):
        assert isinstance(sample, fiftyone.Sample)
        assert Path(sample.filepath).is_file()
        for field, missed in (("predictions", False), ("missed", True)):
            wanted = [row for row in rows if (row["kind"] == "missed") == missed]
            found = sample[field].detections
            assert [one.tags for one in found] == [[row["kind"]] for row in wanted]
            for one, row in zip(found, wanted, strict=True):
                x, y, width, height = one.bounding_box
                corners = np.array([x, y, x + width, y + height]) * [80, 60, 80, 60]
                assert np.allclose(corners, row["box"])
                assert one.confidence == row["score"]
                assert np.array_equal(one["heatmap"].map, heat_of(row))
        kinds = {row["kind"] for row in rows}
        for kind in kinds:
            whole = sample[f"heatmap_{kind}"]
            heats = [heat_of(row) for row in rows if row["kind"] == kind]
            assert np.array_equal(whole.map, np.maximum.reduce(heats))
        again = fiftyone.Sample.from_dict(sample.to_dict())  # what its database would hold
        assert again["predictions"].detections == sample["predictions"].detections


def test_a_fiftyone_dataset(explained: detxai.coco.ExplainedBoxes) -> None:
    fiftyone = pytest.importorskip("fiftyone", reason="needs detxai[fiftyone]")
    try:
        fiftyone.list_datasets()
    except Exception as error:
        pytest.skip(f"FiftyOne has no database here: {error}")
    dataset = to_fiftyone(explained)
    try:
        tags = dataset.count_values("predictions.detections.tags")
        kinds = [row["kind"] for row in explained.rows() if row["kind"] != "missed"]
        assert tags == {kind: kinds.count(kind) for kind in kinds}
        assert len(dataset) == 3
    finally:
        dataset.delete()


def test_without_its_database_fiftyones_export_says_what_to_do(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("fiftyone", reason="needs detxai[fiftyone]")
    nowhere = {**os.environ, "FIFTYONE_DATABASE_URI": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"}
    command = [sys.executable, "-m", "detxai", "coco", "export", str(out), "--to", "fiftyone", "--into", "mistakes"]
    done = subprocess.run(command, env=nowhere, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "FiftyOne reaches no database" in done.stderr
    assert "FIFTYONE_DATABASE_URI" in done.stderr.splitlines()[-1]


def test_the_command_knows_each_tool_and_refuses_what_is_not_there(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from detxai.commands.coco_export.run import EXPORTERS

    assert tuple(EXPORTERS) == EXPORTS
    into = str(tmp_path / "new")
    assert main(["coco", "export", str(tmp_path), "--to", "datasets", "--into", into]) == 2
    assert "folder must be one that detxai coco wrote" in capsys.readouterr().err
    assert main(["coco", "export", str(out), "--to", "datasets", "--into", into, "--min-score", "7"]) == 2
    assert "none of the" in capsys.readouterr().err
    assert main(["coco", "export", str(out), "--to", "datasets", "--into", str(out)]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert not Path(into).exists()


def test_duckdb_reads_the_dataset_as_the_documentation_says(out: Path, explained: detxai.coco.ExplainedBoxes) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    found = duckdb.sql(f"SELECT kind, count(*) FROM '{out}/explanations/*.parquet' GROUP BY kind").fetchall()
    kinds = [row["kind"] for row in explained.rows()]
    assert dict(found) == {kind: kinds.count(kind) for kind in kinds}
