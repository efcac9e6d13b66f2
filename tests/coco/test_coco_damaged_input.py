"""Broken files end in one clear message, never in a traceback; labels and categories agree or are listed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_files import detected_dataset, random_dataset, write_json
from faster_rcnns import small_faster_rcnn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detxai
from detxai.cli import main
from detxai.coco.parts.plan import plan
from detxai.data.categories import label_to_category
from detxai.data.coco_files import as_annotations, as_predictions, read_annotations
from detxai.data.cocoeval import evaluate, matching, summary
from detxai.data.error_kinds import labelled_boxes
from detxai.runs.shards import Shard

pytest.importorskip("pyarrow")

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"), n_images=2)


def refused(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: object) -> str:
    """The one line that the command ends with; nothing is written."""
    given = ["--images", data["images"], "--annotations", data["annotations"], "--out", tmp_path / "out"]
    assert main(["coco", "--model", MODEL, "--method", "eigen_cam", *map(str, [*given, *more])]) == 2
    assert not (tmp_path / "out").exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("detxai: error: ")
    return line


def test_truncated_annotations(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text(data["annotations"].read_text()[:-40])
    assert "is not JSON, or cut off" in refused({**data, "annotations": cut}, tmp_path, capsys)


def test_truncated_predictions(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.json").write_text('[{"image_id": 1, "bbox": [0, 0,')
    assert "is not JSON, or cut off" in refused(data, tmp_path, capsys, "--predictions", tmp_path / "cut.json")


def good_result() -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 5.0, 5.0], "score": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "image_id must be one of the 2 images of the annotation file, got 99 (1 entries)"),
        ({"category_id": 77}, "category_id must be one of the 4 categories of the annotation file, got 77"),
        ({"category_id": None}, "must have a whole number as 'category_id', got None"),
        ({"bbox": [1, 2, 3]}, "must have 'bbox' [x, y, width, height], four finite numbers, got [1, 2, 3]"),
        ({"bbox": [1, 2, -3, 4]}, "'bbox' must have a width and height of 0 or more"),
        ({"bbox": [1, 2, 3, float("nan")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "four finite numbers"),
        ({"score": "high"}, "must have a finite 'score', got 'high'"),
        ({"score": float("inf")}, "must have a finite 'score', got inf"),
        ({"image_id": 2**60}, "must have a whole number as 'image_id'"),
    ],
)
def test_wrong_predictions(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    file = write_json(tmp_path / "p.json", [good_result() | change])
    line = refused(data, tmp_path, capsys, "--predictions", file)
    assert message in line
    assert str(file) in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "must have the list 'images', got nothing"),
        (lambda c: c.update(categories={}), "must have the list 'categories', got a JSON object"),
        (lambda c: c["images"][0].pop("file_name"), "images[0] must have a 'file_name', got None"),
        (lambda c: c["images"].append(c["images"][0]), "images must have different ids, got 1 more than once"),
        (lambda c: c["annotations"][0].pop("bbox"), "annotations[0] must have 'bbox'"),
        (lambda c: c["annotations"][0].update(id="a"), "annotations[0] must have a whole number below 2**53 as 'id'"),
        (lambda c: c["annotations"][0].update(category_id=9), "category_id must be one of the 4 categories"),
        (lambda c: c["annotations"][0].update(image_id=5), "image_id must be one of the 2 images"),
        (lambda c: c["annotations"][0].update(iscrowd=2), "'iscrowd' must be 0 or 1, got 2"),
        (lambda c: c["annotations"][0].update(area=-1), "'area' must be a finite number of pixels, got -1"),
        (lambda c: c["categories"][0].update(name="bee"), "different names, got 'bee' more than once"),
        (lambda c: c["images"].__setitem__(0, "a.png"), "images[0] must be a JSON object, got a text"),
        (lambda c: c["images"][0].update(width=0), "'width' must be a whole number of pixels, got 0"),
    ],
)
def test_wrong_annotations(
    data: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Any], object],
    message: str,
) -> None:
    content = json.loads(data["annotations"].read_text())
    change(content)
    assert message in refused({**data, "annotations": write_json(tmp_path / "a.json", content)}, tmp_path, capsys)


def test_the_files_swapped(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_json(tmp_path / "p.json", [good_result()])
    assert "is it a predictions file?" in refused({**data, "annotations": results}, tmp_path, capsys)
    assert "is it an annotation file?" in refused(data, tmp_path, capsys, "--predictions", data["annotations"])


def test_what_is_not_there(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in refused({**data, "images": tmp_path / "no"}, tmp_path, capsys)
    assert "no such file" in refused({**data, "annotations": tmp_path / "no"}, tmp_path, capsys)
    assert "no such file" in refused(data, tmp_path, capsys, "--predictions", tmp_path / "no")
    assert "kinds must be some of" in refused(data, tmp_path, capsys, "--kinds", "fp")
    assert "shard must be i/n" in refused(data, tmp_path, capsys, "--shard", "3/2")
    assert "method must be one of" in refused(data, tmp_path, capsys, "--method", "eigencam")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["images", "annotations", "categories", "id", "image_id", "category_id", "bbox", "area", "iscrowd", "file_name"]
KEYS += ["name", "score", "height", "width"]


@st.composite
def broken(draw: st.DrawFn, content: Any) -> Any:
    """The content with a few entries replaced, dropped or doubled, anywhere in it."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while draw(st.booleans()) and isinstance(place, (list, dict)) and place:
            inner = place[draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))]
            if not isinstance(inner, (list, dict)) or not inner:
                break
            place = inner
        if isinstance(place, dict):
            key = draw(st.sampled_from([*place, *KEYS]))
            if draw(st.booleans()):
                place.pop(key, None)
            else:
                place[key] = draw(json_values)
        elif isinstance(place, list) and place:
            where = draw(st.integers(0, len(place) - 1))
            place[where] = draw(json_values | st.just(place[-1]))
    return content


ANNOTATIONS, RESULTS = random_dataset(3, n_images=2, n_predictions=6)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken(ANNOTATIONS), broken(RESULTS))
def test_broken_files_never_give_a_traceback(annotations: Any, results: Any) -> None:
    """Either a ValueError of one line, or everything down to the plan of the work goes through."""
    refusal = None
    try:
        truth = as_annotations(json.loads(json.dumps(annotations)))
        found = as_predictions(json.loads(json.dumps(results)), truth)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        assert len(refusal) < 1000
        return
    evaluation = evaluate(truth, found)
    summary(evaluation)
    plan(labelled_boxes(truth, found, matching(evaluation)), [], 4)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='[]{},:"0123456789eE+-truefalsn', max_size=60).map(str.encode))
def test_broken_bytes_never_give_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="annotations: "):
        read_annotations(path)


def test_deep_nesting_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="is not JSON"):
        read_annotations(tmp_path / "a.json")


NAMES = ["__background__", "ape", "bee", "Traffic_Light", "dog"]


def annotated(*names: str, first: int = 1) -> Any:
    categories = [{"id": first + place, "name": name} for place, name in enumerate(names)]
    box = {"image_id": 1, "bbox": [0, 0, 5, 5]}
    annotations = [{"id": 1 + place, "category_id": c["id"], **box} for place, c in enumerate(categories)]
    images = [{"id": 1, "file_name": "a.png"}]
    return as_annotations({"images": images, "annotations": annotations, "categories": categories})


def test_labels_find_their_categories_by_name() -> None:
    detector = detxai.wrap(small_faster_rcnn(), class_names=NAMES)
    assert label_to_category(detector, annotated("dog", "traffic light", "ape", first=7)) == {4: 7, 3: 8, 1: 9}
    assert label_to_category(detector, annotated("cow", "ape", "dog"), "by-id") == {1: 1, 2: 2, 3: 3}


def test_without_names_labels_are_ids() -> None:
    assert label_to_category(detxai.wrap(small_faster_rcnn()), annotated("a", "b")) == {1: 1, 2: 2}
    with pytest.raises(ValueError, match=r"1 annotated categories have no label .*\(by-id\): 5 c;"):
        label_to_category(detxai.wrap(small_faster_rcnn()), annotated("a", "b", "c", first=3))


def test_a_mismatch_lists_both_sides() -> None:
    detector = detxai.wrap(small_faster_rcnn(), class_names=NAMES)
    with pytest.raises(
        ValueError, match=r"1 annotated categories have no label .*: 2 cow; the detector's labels"
    ) as told:
        label_to_category(detector, annotated("ape", "cow"))
    assert "0 __background__, 2 bee, 3 Traffic_Light, 4 dog" in str(told.value)


def test_pairs_spelled_out(tmp_path: Path) -> None:
    detector = detxai.wrap(small_faster_rcnn(), class_names=NAMES)
    truth = annotated("gorilla", "cow")
    assert label_to_category(detector, truth, {"ape": "gorilla", 4: 2}) == {1: 1, 4: 2}
    assert label_to_category(detector, truth, write_json(tmp_path / "l.json", {"1": "gorilla"})) == {1: 1}
    for pairs, message in (
        ({"cat": 1}, "'cat' is not a label or class name"),
        ({"ape": "cat"}, "'cat' is not a category id or name"),
        ({"ape": 1, "bee": 1}, "a different category"),
    ):
        with pytest.raises(ValueError, match=message):
            label_to_category(detector, truth, pairs)
    with pytest.raises(FileNotFoundError, match="by-name, by-id or a JSON file"):
        label_to_category(detector, truth, tmp_path / "no.json")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_shards_share_the_parts(n: int) -> None:
    content, results = random_dataset(0)
    truth = as_annotations(content)
    found = as_predictions(results, truth)
    from detxai.data.image_files import ImageFile

    files = [ImageFile(image["id"], image["file_name"], "") for image in content["images"]]
    chosen = labelled_boxes(truth, found, matching(evaluate(truth, found)))
    parts = plan(chosen, files, 5)
    assert [query.box for part in parts for job in part.jobs for query in job.queries] == chosen
    assert [query.row for part in parts for job in part.jobs for query in job.queries] == list(range(len(chosen)))
    shared = [part for i in range(n) for part in Shard(i, n).mine(parts)]
    assert sorted(part.number for part in shared) == [part.number for part in parts]


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "a/b", "-1/2", "1/0"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(ValueError, match="shard must be i/n"):
        Shard.read(text)
