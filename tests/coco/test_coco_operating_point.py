"""One score decides what is found, missed and explained; and an image that nobody could read is in no figure."""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import detected_dataset, random_dataset, write_json
from faster_rcnns import small_faster_rcnn
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import detxai
import detxai.coco
from detxai.cli import main
from detxai.coco.label import boxes_at_operating_point
from detxai.data.coco_files import as_annotations, as_predictions
from detxai.data.cocoeval import evaluate
from detxai.runs.tables import import_pyarrow

pytest.importorskip("pyarrow")

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"


def run(data: dict[str, Path], out: Path, *more: object, code: int = 0) -> None:
    given = ["coco", "--model", MODEL, "--images", data["images"], "--annotations", data["annotations"], "--out", out]
    assert main([*map(str, given), "--method", "eigen_cam", "--map-stride", "8", *map(str, more)]) == code


def parquet(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = import_pyarrow().parquet.read_table(path).to_pylist()
    return content


def pycocotools(content: Any, results: Any, image_ids: list[int] | None = None) -> Any:
    """COCOeval by itself, of these results and images."""
    with redirect_stdout(StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("point", [0.1, 0.25, 0.5, 0.8])
def test_found_and_missed_are_what_cocoeval_says_of_the_predictions_that_count(seed: int, point: float) -> None:
    content, results = random_dataset(seed)
    annotations = as_annotations(content)
    predictions = as_predictions(results, annotations)
    every = evaluate(annotations, predictions)
    found = boxes_at_operating_point(annotations, predictions, every, 0.5, point)
    counting = [result for result in results if result["score"] >= point]
    theirs = pycocotools(content, counting)
    numbers = [place for place, result in enumerate(results, start=1) if result["score"] >= point]  # their id -> ours
    area = theirs.params.areaRng[0]
    matched: dict[int, int | None] = {}
    missed: set[int] = set()
    finders: dict[int | None, int] = {}
    for answer in theirs.evalImgs:
        if answer is not None and answer["aRng"] == area:
            for number, match in zip(answer["dtIds"], answer["dtMatches"][0], strict=True):
                matched[numbers[number - 1]] = int(match) or None
            known = zip(answer["gtIds"], answer["gtMatches"][0], answer["gtIgnore"], strict=True)
            missed.update(number for number, match, ignored in known if not match and not ignored)
    for answer in every.evalImgs:  # with the weak ones too
        if answer is not None and answer["aRng"] == area:
            finders.update(zip(answer["gtIds"], map(int, answer["gtMatches"][0]), strict=True))
    assert {case.prediction_id for case in found if case.prediction_id is not None} == set(matched)
    for case in found:
        if case.kind == "true_positive":
            assert matched[case.prediction_id or 0] == case.annotation_id
        if case.kind == "missed":
            finder = finders[case.annotation_id]
            assert case.found_below == (results[finder - 1]["score"] if finder else None)
            assert (case.ap_loss == 0.0) or not finder
    assert {case.annotation_id for case in found if case.kind == "missed"} == missed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"))


def test_every_object_is_found_and_explained_or_missed_and_explained(data: dict[str, Path], tmp_path: Path) -> None:
    """Also one that is found at a score of .02 only."""
    content = json.loads(data["annotations"].read_text())
    weak, sure = content["annotations"][0], content["annotations"][1]
    results = [
        {key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": score}
        for one, score in ((weak, 0.02), (sure, 0.9))
    ]
    given = ("--predictions", write_json(tmp_path / "p.json", results), "--no-report")
    run(data, tmp_path / "out", *given)
    rows = detxai.coco.load(tmp_path / "out").table().to_pylist()
    by_annotation = {row["annotation_id"]: row for row in rows}
    assert set(by_annotation) == {annotation["id"] for annotation in content["annotations"]}
    assert by_annotation[weak["id"]]["kind"] == "missed"
    assert by_annotation[weak["id"]]["found_below"] == pytest.approx(0.02)
    assert by_annotation[sure["id"]]["kind"] == "true_positive"
    run(data, tmp_path / "lower", *given, "--operating-point", 0.02)
    rows = detxai.coco.load(tmp_path / "lower").table().to_pylist()
    assert {row["annotation_id"]: row["kind"] for row in rows}[weak["id"]] == "true_positive"
    for out in ("out", "lower"):  # AP is of all predictions, whatever counts
        record = json.loads((tmp_path / out / "evaluation.json").read_text())
        assert list(record["summary"].values())[:3] == pytest.approx(pycocotools(content, results).stats[:3])


def test_why_it_was_missed_is_said_of_the_same_score(data: dict[str, Path], tmp_path: Path) -> None:
    run(data, tmp_path / "out", "--no-report", "--kinds", "missed")
    detector = detxai.wrap(small_faster_rcnn())
    stages = set()
    for row in detxai.coco.load(tmp_path / "out").rows():
        stages.add(row["stage"])
        found = detector.detect(data["images"] / row["file_name"], 0.25)
        same = found.boxes[found.labels == row["label"]]
        x1, y1, x2, y2 = row["box"]
        width = (same[:, 2].clamp(max=x2) - same[:, 0].clamp(min=x1)).clamp(min=0)
        height = (same[:, 3].clamp(max=y2) - same[:, 1].clamp(min=y1)).clamp(min=0)
        areas = (same[:, 2] - same[:, 0]) * (same[:, 3] - same[:, 1]) + (x2 - x1) * (y2 - y1)
        covered = bool((width * height / (areas - width * height) >= 0.5).any())
        assert (row["stage"] == "found_now") == covered
        if row["stage"] == "low_score":
            assert row["candidate_score"] < 0.25
        if row["stage"] in ("suppressed", "cut_off"):
            assert row["candidate_score"] >= 0.25
    assert "low_score" in stages


@pytest.fixture
def partly_unreadable(data: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """One image is missing, one is cut off."""
    images = tmp_path / "images"
    images.mkdir()
    for path in data["images"].iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "00.png").unlink()
    (images / "03.png").write_bytes((images / "03.png").read_bytes()[:200])
    return {**data, "images": images}


def test_unread_images_are_in_no_figure_and_stand_first(
    partly_unreadable: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(partly_unreadable, out, code=1)
    printed = capsys.readouterr().out
    assert printed.startswith("2 images could not be read or detected in, and are in no figure: 00.png, 03.png\n")
    content = json.loads(partly_unreadable["annotations"].read_text())
    read = [image["id"] for image in content["images"] if image["file_name"] not in ("00.png", "03.png")]
    theirs = pycocotools(content, json.loads((out / "predictions.json").read_text()), read)
    record = json.loads((out / "evaluation.json").read_text())
    ours = [-1.0 if value is None else value for value in record["summary"].values()]
    assert ours == pytest.approx(list(theirs.stats), abs=1e-12)
    assert record["images"] == {"evaluated": 4, "left_out": ["00.png", "03.png"]}
    boxes = parquet(out / "boxes.parquet")
    assert {box["image_id"] for box in boxes} <= set(read)
    truths = [one for one in content["annotations"] if one["image_id"] in read]
    assert record["kinds"]["missed"] + record["kinds"]["true_positive"] == len(truths)
    report = (out / "report.html").read_text()
    assert report.index("2 images could not be read") < report.index("<h2>AP</h2>")


def test_a_wrong_folder_of_images_is_refused_and_nothing_written(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    run({**data, "images": tmp_path / "other"}, tmp_path / "out", code=2)
    assert f"images: none of the 6 images that are annotated is in {tmp_path / 'other'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("predictions", ["the model's", "from a file"])
@pytest.mark.parametrize("n_images", [26, 5])
def test_where_the_first_images_all_fail_it_stops_and_goes_on_once_they_are_mended(
    predictions: str, n_images: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = detected_dataset(tmp_path / "data", n_images)
    bad = tmp_path / "bad"
    bad.mkdir()
    for place in range(n_images):
        (bad / f"{place:02d}.png").write_bytes(b"no image")
    given: list[object] = ["--no-report", "--kinds", "false_positives"]
    if predictions == "from a file":
        run(data, tmp_path / "before", *given)
        given += ["--predictions", tmp_path / "before" / "predictions.json"]
    few_from_a_file = predictions == "from a file" and n_images == 5  # the evaluation is worth having
    run({**data, "images": bad}, tmp_path / "out", *given, code=1 if few_from_a_file else 2)
    wanted = {
        26: "the first 20 images all failed; the last error: 19.png: ",
        5: "all 5 images failed; the last error: ",
    }[n_images]
    error = capsys.readouterr().err
    assert few_from_a_file or wanted in error
    assert "is not an image" in error
    run(data, tmp_path / "out", *given, *(["--retry-failed"] if few_from_a_file else []))
    run(data, tmp_path / "whole", *given)
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in detxai.coco.load(tmp_path / name).rows()]
        for name in ("out", "whole")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) > n_images


def test_a_picture_of_another_folder_is_not_taken_for_the_one_explained(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    run(data, out, "--no-report")
    moved.mkdir()
    for path in data["images"].iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    run({**data, "images": moved}, out)  # the same pictures elsewhere: the report shows them
    of_kind = Counter(row["kind"] for row in detxai.coco.load(out).rows())
    assert (out / "report.html").read_text().count("<figure data-kind=") == sum(min(24, n) for n in of_kind.values())
    assert detxai.coco.load(out).images == moved
    (moved / "02.png").write_bytes((data["images"] / "01.png").read_bytes())
    swapped = moved.rename(tmp_path / "swapped")
    run({**data, "images": swapped}, out, code=2)
    assert "02.png is not the picture that the run" in capsys.readouterr().err
    explained = detxai.coco.load(out, swapped)
    index = next(place for place in range(len(explained)) if explained.row(place)["file_name"] == "02.png")
    with pytest.raises(ValueError, match=r"02\.png is not the picture that was explained"):
        explained[index]
    assert np.isfinite(explained.values(index)).all()
