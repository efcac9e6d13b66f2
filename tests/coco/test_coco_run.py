"""``detxai coco`` from end to end on a small seeded detector: the dataset, its way back, and every way to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from coco_files import detected_dataset, write_json
from faster_rcnns import small_faster_rcnn

import detxai
import detxai.coco
from detxai.cli import main
from detxai.coco.schema import EXPLANATION_COLUMNS, TIMED
from detxai.data.coco_files import read_annotations
from detxai.metrics.energy import energy_share
from detxai.metrics.inputs.maps import box_masks
from detxai.runs.tables import import_pyarrow

pytest.importorskip("pyarrow")

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"
ABLATION = ("--method", "ablation_cam", "--set", "ratio_channels_to_ablate=0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"))


def arguments(data: dict[str, Path], out: Path, *more: object) -> list[str]:
    given = ["coco", "--model", MODEL, "--images", data["images"], "--annotations", data["annotations"], "--out", out]
    return [*map(str, given), "--rows-per-part", "4", "--no-report", *map(str, more)]


def run(data: dict[str, Path], out: Path, *more: object, code: int = 0) -> None:
    assert main(arguments(data, out, *more)) == code


@pytest.fixture(scope="module")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(data, out, *ABLATION)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    """The dataset without the columns that differ from run to run."""
    return [{k: v for k, v in row.items() if k not in TIMED} for row in detxai.coco.load(out).rows()]


def parquet(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = import_pyarrow().parquet.read_table(path).to_pylist()
    return content


def test_every_chosen_box_has_its_row(whole: Path) -> None:
    loaded = detxai.coco.load(whole)
    table = loaded.table().to_pylist()
    assert [row["row"] for row in table] == list(range(len(loaded)))
    boxes = parquet(whole / "boxes.parquet")
    chosen = [b for b in boxes if b["kind"] != "ignored"]
    assert all(box["score"] is None or box["score"] >= 0.25 for box in boxes)
    assert len({row["kind"] for row in table}) >= 4
    shared = list(boxes[0])
    assert [{name: row[name] for name in shared} for row in table] == chosen


def test_explanations_come_back_within_half_a_level(whole: Path, data: dict[str, Path]) -> None:
    loaded = detxai.coco.load(whole)
    detector = detxai.wrap(small_faster_rcnn())
    first = loaded.row(0)
    together = [row for row in loaded.rows() if row["image_id"] == first["image_id"]]
    scores = [row["candidate_score"] if row["score"] is None else row["score"] for row in together]
    asked = detxai.Detections([r["box"] for r in together], scores, [r["label"] for r in together])
    image = data["images"] / first["file_name"]
    made = detxai.explain(detector, image, "ablation_cam", asked, ratio_channels_to_ablate=0.1, progress=False)
    for place, explanation in enumerate(made):
        back = loaded[place]
        assert np.abs(back.values - explanation.values).max() <= together[place]["map_scale"] * 0.501
        assert np.array_equal(back.image, explanation.image)
        assert back.method == "ablation_cam"
        assert back.settings["ratio_channels_to_ablate"] == 0.1
        assert back.cost.forward_passes == explanation.cost.forward_passes
        assert back.detection is not None
        assert torch.equal(back.detection.boxes, explanation.detection.boxes)  # type: ignore[union-attr]
        assert back.model == dict(explanation.model)
        inside = energy_share(
            torch.from_numpy(explanation.values)[None],
            box_masks(asked[place].boxes, explanation.values.shape),
        )
        assert together[place]["energy_box"] == pytest.approx(float(inside))


def test_pandas_reads_it(whole: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(whole / "explanations")
    assert list(frame.columns) == [name for name, _, _ in EXPLANATION_COLUMNS]
    assert all(png.startswith(b"\x89PNG") for png in frame["map_png"])
    assert len(pandas.read_parquet(whole / "failures.parquet")) == 0
    for ours, (_, theirs) in zip(detxai.coco.load(whole).rows(), frame.iterrows(), strict=True):
        for name in ("row", "image_id", "kind", "category", "map_png", "map_scale", "energy_box", "seconds"):
            assert ours[name] == theirs[name]
        assert ours["box"] == list(theirs["box"])


def test_ap_in_json_is_pycocotools_own(whole: Path, data: dict[str, Path]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(data["annotations"]))
    evaluation = COCOeval(truth, truth.loadRes(str(whole / "predictions.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = list(json.loads((whole / "evaluation.json").read_text())["summary"].values())
    assert [-1.0 if value is None else value for value in ours] == pytest.approx(list(evaluation.stats), abs=1e-12)


def test_the_same_command_again_does_nothing(whole: Path, data: dict[str, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "explanations").iterdir()}
    run(data, whole, *ABLATION)
    assert {path: path.stat().st_mtime_ns for path in (whole / "explanations").iterdir()} == before


def test_another_question_is_refused(whole: Path, data: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run(data, whole, "--method", "ablation_cam", "--min-score", 0.5, code=2)
    message = capsys.readouterr().err
    assert "holds another run that was started with different settings" in message
    assert "selection" in message
    assert "settings" in message


def test_a_folder_of_something_else_is_refused(data: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    run(data, tmp_path, *ABLATION, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_shards_make_the_same_dataset(whole: Path, data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(data, out, *ABLATION, "--shard", "2/3")
    assert 0 < len(detxai.coco.load(out)) < len(rows(whole))
    run(data, out, *ABLATION, "--shard", "3/3")
    run(data, out, *ABLATION, "--shard", "1/3", "--workers", "1")
    assert rows(out) == rows(whole)


def killed_at(command: list[str], out: Path, n_parts: int) -> int:
    """Start the command, and kill it by SIGKILL as soon as this many parts are there (or it is done)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(list((out / "explanations").glob("part-*"))) < n_parts:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return len(list((out / "explanations").glob("part-*")))


def test_killed_and_resumed_it_is_the_same_row_for_row(whole: Path, data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", "import sys; from detxai.cli import main; sys.exit(main(sys.argv[1:]))"]
    n_parts = len(list((whole / "explanations").iterdir()))
    there = killed_at([*command, *arguments(data, out, *ABLATION)], out, 2)
    assert 0 < there < n_parts
    run(data, out, *ABLATION)
    assert rows(out) == rows(whole)
    assert not [path for path in (out / "explanations").iterdir() if not path.name.startswith("part-")]


def test_a_part_cut_off_is_made_anew(whole: Path, data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(data, out, *ABLATION)
    part = out / "explanations/part-000001.parquet"
    part.write_bytes(part.read_bytes()[:1000])
    run(data, out, *ABLATION)
    assert rows(out) == rows(whole)


def test_given_predictions_are_found_again_and_changed_ones_are_flagged(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    results = [r for r in json.loads((whole / "predictions.json").read_text()) if r["score"] >= 0.25]
    results[0]["bbox"][0] += 30.0
    results[1]["score"] -= 0.15
    out = tmp_path / "out"
    run(data, out, "--method", "eigen_cam", "--predictions", write_json(tmp_path / "p.json", results))
    by_prediction = {row["prediction_id"]: row for row in rows(out) if row["prediction_id"] is not None}
    assert {number for number, row in by_prediction.items() if not row["reproduced"]} <= {1, 2}
    assert not by_prediction[1]["reproduced"]
    assert by_prediction[1]["now_iou"] < 0.9
    if 2 in by_prediction:
        assert by_prediction[2]["score_difference"] == pytest.approx(0.15, abs=1e-5)
    assert by_prediction[4]["now_iou"] == pytest.approx(1, abs=1e-4)
    assert json.loads((out / "manifest.json").read_text())["question"]["predictions_sha256"]


def test_a_method_that_asks_no_box_shares_its_map(data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(data, out, "--method", "eigen_cam")
    loaded = detxai.coco.load(out)
    first = [row for row in loaded.rows() if row["image_id"] == loaded.row(0)["image_id"]]
    assert len({row["map_png"] for row in first}) == 1 < len({row["energy_box"] for row in first})
    assert loaded[0].detection is None


def test_coarse_maps_and_overlays(data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(data, out, "--method", "eigen_cam", "--map-stride", 8, "--overlays", "--worst", 3)
    loaded = detxai.coco.load(out)
    assert len(loaded) == 3
    assert loaded.values(0).shape == (60, 80)
    names = sorted(path.name for path in (out / "overlays").iterdir())
    assert [name[:6] for name in names] == ["000000", "000001", "000002"]


@pytest.fixture
def damaged(data: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """One image missing, one corrupt, one of another size."""
    images = tmp_path / "images"
    images.mkdir()
    for path in data["images"].iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "00.png").unlink()
    (images / "01.png").write_bytes((images / "01.png").read_bytes()[:200])
    PIL.Image.open(images / "02.png").resize((81, 60)).save(images / "02.png")
    return {**data, "images": images}


def test_damaged_images_are_failures_and_the_run_goes_on(
    whole: Path, damaged: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(damaged, out, *ABLATION, "--predictions", whole / "predictions.json", code=1)
    failures = parquet(out / "failures.parquet")
    assert [(f["file_name"], f["step"]) for f in failures] == [(f"0{i}.png", "reading") for i in range(3)]
    assert "no such file" in failures[0]["reason"]
    assert "damaged or truncated" in failures[1]["reason"]
    assert "81 x 60 pixels, but the annotation file says 80 x 60" in failures[2]["reason"]
    expected = [row["row"] for row in rows(whole) if row["file_name"] > "02.png"]
    assert [row["row"] for row in rows(out)] == expected
    assert sum(f["n_boxes"] for f in failures) == len(rows(whole)) - len(expected)
    assert capsys.readouterr().err.count("detxai: error: 0") == 3


def test_failures_are_retried_on_request(
    data: dict[str, Path], whole: Path, damaged: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = (*ABLATION, "--predictions", whole / "predictions.json")
    run(damaged, out, *given, code=1)
    mend(damaged, data)
    run(damaged, out, *given, code=1)
    run(damaged, out, *given, "--retry-failed")
    run(data, tmp_path / "undamaged", *given)
    assert rows(out) == rows(tmp_path / "undamaged")


def test_images_that_cannot_be_detected_in_are_failures_too(damaged: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(damaged, out, *ABLATION, code=1)
    failures = parquet(out / "failures.parquet")
    assert [(f["file_name"], f["step"]) for f in failures] == [(f"0{i}.png", "reading") for i in range(3)]
    assert {row["file_name"] for row in rows(out)} == {"03.png", "04.png", "05.png"}


def mend(damaged: dict[str, Path], data: dict[str, Path]) -> None:
    for path in data["images"].iterdir():
        (damaged["images"] / path.name).write_bytes(path.read_bytes())


def test_images_that_could_not_be_detected_in_are_retried_and_the_others_stay(
    whole: Path, data: dict[str, Path], damaged: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import detxai.coco.parts.image_explainer

    out, explained = tmp_path / "out", []
    explain = detxai.coco.parts.image_explainer.explain
    run(damaged, out, *ABLATION, code=1)
    run(damaged, out, *ABLATION, "--retry-failed", code=1)  # still damaged: nothing changes
    kept = rows(out)
    mend(damaged, data)
    run(damaged, out, *ABLATION, code=1)
    assert rows(out) == kept

    def counting(detector: Any, image: Any, method: Any, detections: Any) -> Any:
        explained.append(len(detections))
        return explain(detector, image, method, detections)

    monkeypatch.setattr(detxai.coco.parts.image_explainer, "explain", counting)
    run(damaged, out, *ABLATION, "--retry-failed")
    assert rows(out) == rows(whole)
    assert sum(explained) == len(rows(whole)) - len(kept)
    assert parquet(out / "failures.parquet") == []
    assert not (out / ".parts" / "earlier").exists()


def test_a_retry_that_was_killed_goes_on(
    whole: Path, data: dict[str, Path], damaged: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detxai.coco.folder import CocoFolder

    out, write = tmp_path / "out", CocoFolder.write_part
    run(damaged, out, *ABLATION, code=1)
    mend(damaged, data)

    def once(folder: CocoFolder, number: int, *given: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        write(folder, number, *given)

    monkeypatch.setattr(CocoFolder, "write_part", once)
    run(damaged, out, *ABLATION, "--retry-failed", code=130)
    monkeypatch.undo()
    run(damaged, out, *ABLATION)
    assert rows(out) == rows(whole)


def test_a_part_that_cannot_be_written_leaves_nothing_in_the_next(
    whole: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detxai.coco.folder import CocoFolder
    from detxai.runs.files import WriteError

    out, write = tmp_path / "out", CocoFolder.write_part

    def full(folder: CocoFolder, number: int, *given: Any) -> None:
        if number == 0:
            raise WriteError(folder.part(number), OSError(28, "no space left on device"))
        write(folder, number, *given)

    monkeypatch.setattr(CocoFolder, "write_part", full)
    run(data, out, *ABLATION, code=1)
    monkeypatch.undo()
    run(data, out, *ABLATION)
    assert rows(out) == rows(whole)


def test_fail_fast_stops_at_the_first(damaged: dict[str, Path], tmp_path: Path) -> None:
    run(damaged, tmp_path / "out", *ABLATION, "--fail-fast", code=2)


def test_out_of_memory_and_a_failing_box_are_rows(
    data: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image never fits; in another one box fails, alone and among the others."""
    import detxai.coco.parts.image_explainer

    expected = rows(whole)
    bad_image, bad_row = expected[0]["image_id"], next(r for r in reversed(expected) if r["prediction_id"])
    explain = detxai.coco.parts.image_explainer.explain
    first = detxai.coco.load(whole)[0].image

    def failing(detector: Any, image: Any, method: Any, detections: Any) -> Any:
        if np.array_equal(image, first):
            raise torch.OutOfMemoryError("tried to allocate 99 GiB")
        if any(torch.allclose(box, torch.tensor(bad_row["box"])) for box in detections.boxes):
            raise ValueError("not this box")
        return explain(detector, image, method, detections)

    monkeypatch.setattr(detxai.coco.parts.image_explainer, "explain", failing)
    out = tmp_path / "out"
    run(data, out, *ABLATION, code=1)
    failures = parquet(out / "failures.parquet")
    of_image = [f for f in failures if f["image_id"] == bad_image]
    assert {f["reason"] for f in of_image} == {"OutOfMemoryError: tried to allocate 99 GiB"}
    others = [f for f in failures if f["image_id"] != bad_image]
    assert [(f["prediction_id"], f["reason"]) for f in others] == [
        (bad_row["prediction_id"], "ValueError: not this box")
    ]
    there = {row["row"] for row in rows(out)}
    gone = {row["row"] for row in expected if row["image_id"] == bad_image} | {bad_row["row"]}
    assert there == {row["row"] for row in expected} - gone


@pytest.mark.slow
def test_a_setting_that_fails_everywhere_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = detected_dataset(tmp_path / "data", n_images=26)
    given = ("--method", "eigen_cam", "--set", "layers=roi_heads.box_predictor.cls_score")  # a layer without places
    run(data, tmp_path / "out", *given, code=2)
    assert "the first 20 images all failed; the last error: 19.png: " in capsys.readouterr().err
    assert not list((tmp_path / "out/explanations").glob("*"))
    assert not list((tmp_path / "out/.parts").glob("failures-*"))
    before = (tmp_path / "out/predictions.json").stat().st_mtime_ns
    right = ("--method", "eigen_cam")  # nothing was explained: the folder is no other run's
    run(data, tmp_path / "out", *right, code=1)
    assert (tmp_path / "out/predictions.json").stat().st_mtime_ns == before
    assert rows(tmp_path / "out")
    run(data, tmp_path / "out", *given, code=2)
    assert "holds another run that was started with different settings" in capsys.readouterr().err


def test_the_users_model_and_random_state_come_back(data: dict[str, Path], tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    model = small_faster_rcnn().train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    truth = COCO(str(data["annotations"]))
    detxai.coco.explain_errors(
        truth,
        None,
        model,
        images=data["images"],
        out=tmp_path / "o",
        method="eigen_cam",
        report=False,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_three_lines_after_a_finished_evaluation(whole: Path, data: dict[str, Path], tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(data["annotations"]))
    found = truth.loadRes(str(whole / "predictions.json"))
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    done = detxai.coco.explain_errors(
        truth, found, small_faster_rcnn(), images=data["images"], out=tmp_path / "o", evaluation=evaluation,
        method="ablation_cam", settings={"ratio_channels_to_ablate": 0.1}, report=False,
    )  # fmt: skip
    assert done.complete
    expected = [(r["prediction_id"], r["annotation_id"]) for r in rows(whole) if r["kind"] != "true_positive"]
    assert [(row["prediction_id"], row["annotation_id"]) for row in rows(tmp_path / "o")] == expected
    assert done.n_explained == len(expected)


def test_a_plain_function_is_explained_too(data: dict[str, Path], tmp_path: Path) -> None:
    def function(images: Any) -> Any:
        return [detxai.Detections([[5, 5, 40, 30]], [0.9], [2]) for _ in images]

    detector = detxai.wrap(function, class_names={1: "ape", 2: "bee", 3: "cat", 4: "dog"})
    annotations = read_annotations(data["annotations"])
    done = detxai.coco.explain_errors(
        annotations, None, detector, images=data["images"], out=tmp_path / "o", method="d_rise",
        settings={"n_masks": 16, "seed": 3}, selection=detxai.coco.Selection(max_images=2), report=False,
    )  # fmt: skip
    assert done.complete
    assert not done.failures
    assert {row["seed"] for row in rows(tmp_path / "o")} == {3}


@pytest.mark.slow
def test_real_photos_with_a_coco_yolo(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder, out = shared_data / "coco_dev", tmp_path / "out"
    given = ["coco", "--model", str(shared_data / "yolov8n_coco.pt"), "--images", str(folder / "images")]
    given += ["--annotations", str(folder / "instances.json"), "--input-size", "320", "--method", "eigen_cam"]
    given += ["--operating-point", "0"]
    assert main([*given, "--out", str(out), "--worst", "40"]) == 0
    truth = COCO(str(folder / "instances.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(out / "predictions.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    record = json.loads((out / "evaluation.json").read_text())
    assert list(record["summary"].values()) == pytest.approx(list(evaluation.stats), abs=1e-6)
    boxes = parquet(out / "boxes.parquet")
    matched = {b["prediction_id"]: b["annotation_id"] for b in boxes if b["kind"] == "true_positive"}
    missed = {b["annotation_id"] for b in boxes if b["kind"] == "missed"}
    expected: dict[int, int] = {}
    lost: set[int] = set()
    for answer in evaluation.evalImgs:
        if answer is not None and answer["aRng"] == evaluation.params.areaRng[0]:
            found = zip(answer["dtIds"], answer["dtMatches"][0], answer["dtIgnore"][0], strict=True)
            expected.update((number, int(match)) for number, match, ignored in found if match and not ignored)
            known = zip(answer["gtIds"], answer["gtMatches"][0], answer["gtIgnore"], strict=True)
            lost.update(number for number, match, ignored in known if not match and not ignored)
    assert matched == expected
    assert missed == lost
    assert len(detxai.coco.load(out)) == 40
