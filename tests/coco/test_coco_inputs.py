"""``detxai coco`` and ``evaluate`` on other annotations than COCO's: the same answers; and on images without any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import detected_dataset

import detxai.coco
from detxai.cli import main

pytest.importorskip("pyarrow")
pytest.importorskip("yaml")

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"
NAMES = ["ape", "bee", "cat", "dog"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same data set as COCO's JSON and as YOLO's ``data.yaml``."""
    folder = tmp_path_factory.mktemp("inputs")
    found = detected_dataset(folder, n_images=3)
    content = json.loads(found["annotations"].read_text())
    (folder / "labels").mkdir()
    for image in content["images"]:
        lines = []
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, width, height = one["bbox"]
                shares = (x + width / 2) / 80, (y + height / 2) / 60, width / 80, height / 60
                lines.append(" ".join(map(str, [one["category_id"] - 1, *shares])))
        (folder / "labels" / Path(image["file_name"]).with_suffix(".txt")).write_text("\n".join(lines))
    (folder / "data.yaml").write_text(f"val: images\nnames: {json.dumps(NAMES)}\n")
    return {**found, "yolo": folder / "data.yaml"}


@pytest.fixture(scope="module")
def class_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text("\n".join(["background", *NAMES]))
    return path


def coco(class_names: Path, out: Path, *more: object) -> dict[str, object]:
    given = ["coco", "--model", MODEL, "--class-names", class_names, "--method", "eigen_cam", "--out", out]
    given += ["--no-report", "--operating-score", "0.2", *more]
    assert main([str(word) for word in given]) == 0
    record: dict[str, object] = json.loads((out / "evaluation.json").read_text())
    return record


def test_the_format_of_the_annotations_changes_nothing(
    data: dict[str, Path], class_names: Path, tmp_path: Path
) -> None:
    json_ = coco(class_names, tmp_path / "a", "--images", data["images"], "--annotations", data["annotations"])
    yaml = coco(class_names, tmp_path / "b", "--annotations", data["yolo"])
    for name in ("summary", "kinds", "missed_alone", "delta_ap"):
        assert yaml[name] == pytest.approx(json_[name])
    rows, others = (list(detxai.coco.load(tmp_path / run).rows()) for run in "ab")
    assert len(rows) == len(others) > 0
    for ours, theirs in zip(rows, others, strict=True):
        for name in ("kind", "category", "stage", "map_png", "image_sha256"):
            assert ours[name] == theirs[name]


def test_images_without_annotations_are_neither_right_nor_wrong(
    data: dict[str, Path], class_names: Path, tmp_path: Path
) -> None:
    record = coco(class_names, tmp_path / "out", "--images", data["images"])
    kinds = record["kinds"]
    assert isinstance(kinds, dict)
    assert set(kinds) - {kind for kind, n in kinds.items() if n == 0} == {"unannotated"}
    loaded = detxai.coco.load(tmp_path / "out")
    assert len(loaded) == kinds["unannotated"] > 0
    assert {row["kind"] for row in loaded.rows()} == {"unannotated"}
    found = detxai.coco.load(tmp_path / "out").folder.evaluation
    assert set(json.loads(found.read_text())["delta_ap"].values()) == {0.0}


@pytest.mark.parametrize("annotated", [True, False])
def test_evaluate_takes_the_same(data: dict[str, Path], class_names: Path, tmp_path: Path, annotated: bool) -> None:
    source = ["--annotations", data["yolo"]] if annotated else ["--images", data["images"]]
    given = ["evaluate", "--model", MODEL, "--class-names", class_names, "--methods", "random,box", "--out", tmp_path]
    given += ["--measures", "energy", "--max-detections", "4", "--score-threshold", "0.2", *source]
    assert main([str(word) for word in given]) == 0
    assert (tmp_path / "index.html").is_file()
