"""Which detections are measured, and what is known of them: COCO files, scenes, matching, sampling."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as rle

from detxai.data.categories import labels_of_categories
from detxai.data.matching import match_objects
from detxai.data.segmentation import draw_segmentation
from detxai.detections import Detections
from detxai.evaluate.photos.coco_photos import coco_photos
from detxai.evaluate.photos.scene_photos import scene_photos
from detxai.evaluate.photos.selection import EvaluatedDetections, draw_detections
from detxai.metrics import Objects
from detxai.scenes import CLASS_NAMES, generate

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
NAMES = {0: "person", 16: "dog"}


def coco_file(folder: Path, annotations: list[dict[str, Any]], **parts: Any) -> Path:
    PIL.Image.new("RGB", (12, 8), "grey").save(folder / "a.png")
    content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": annotations, "categories": CATEGORIES}
    path = folder / "instances.json"
    path.write_text(json.dumps({**content, **parts}))
    return path


def annotation(category: int, box: list[float], **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def test_objects_have_the_detectors_labels(tmp_path: Path) -> None:
    listed = [
        annotation(18, [1, 2, 3, 4]),
        annotation(1, [0, 0, 12, 8]),
        annotation(90, [5, 5, 1, 1]),  # the detector knows no toothbrush
        annotation(1, [0, 0, 5, 5], iscrowd=1),
    ]
    (photo,) = coco_photos(tmp_path, coco_file(tmp_path, listed), NAMES)
    image, truth = photo.load()
    assert (photo.name, image.shape) == ("a.png", (8, 12, 3))
    assert truth.objects.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 12, 8]]
    assert truth.objects.labels.tolist() == [16, 0]
    assert truth.objects.masks is None
    assert truth.evidence is None


def test_masks_from_polygons_and_both_kinds_of_rle(tmp_path: Path) -> None:
    drawn = np.zeros((8, 12), np.uint8, order="F")
    drawn[2:5, 3:7] = 1
    packed = rle.encode(drawn)
    plain = {"size": [8, 12], "counts": [26, 3, 5, 3, 5, 3, 5, 3, 43]}  # column by column: zeros, ones, zeros, ...
    listed = [
        annotation(1, [3, 2, 4, 3], segmentation=[[3, 2, 7, 2, 7, 5, 3, 5]]),
        annotation(1, [3, 2, 4, 3], segmentation={"size": [8, 12], "counts": packed["counts"].decode()}),
        annotation(1, [3, 2, 4, 3], segmentation=plain),
    ]
    (photo,) = coco_photos(tmp_path, coco_file(tmp_path, listed), NAMES)
    masks = photo.load()[1].objects.masks
    assert masks is not None
    for mask in masks:
        assert torch.equal(mask, torch.from_numpy(drawn).bool())


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    listed = [annotation(1, [0, 0, 2, 2], segmentation={"size": [4, 4], "counts": [0, 16]})]
    (photo,) = coco_photos(tmp_path, coco_file(tmp_path, listed), NAMES)
    with pytest.raises(ValueError, match="8 x 12 pixels, got 4 x 4"):
        photo.load()


@pytest.mark.parametrize(
    ("class_names", "categories", "labels"),
    [
        ({1: "dog", 2: "person"}, CATEGORIES, {18: 1, 1: 2}),  # names win over numbers that happen to fit
        ({}, CATEGORIES, {18: 18, 1: 1, 90: 90}),  # a detector without names: numbers, as in torchvision's models
        ({0: "-", 1: "x", 18: "y"}, [{"id": 1}, {"id": 18}, {"id": 30}], {1: 1, 18: 18}),  # a file without names
    ],
)
def test_categories_by_name_then_by_number(class_names: dict[int, str], categories: Any, labels: Any) -> None:
    assert labels_of_categories(class_names, categories) == labels


@pytest.mark.parametrize(
    ("class_names", "categories", "message"),
    [
        ({0: "cat"}, CATEGORIES, "dog, person, toothbrush; the detector has cat"),
        ({0: "cat"}, [{"id": 5}], "it has 5; the detector has 0"),
        ({0: "cat"}, [], "it has none"),
        ({i: f"c{i}" for i in range(20)}, [{"id": 99, "name": "x"}], "c7 and 12 more"),
    ],
)
def test_no_category_that_fits_is_an_error(class_names: dict[int, str], categories: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels_of_categories(class_names, categories)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object, got a JSON list; is it a predictions file"),
        ('{"images": [], "annotations": {}}', "must have the list 'annotations', got a JSON object"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"images\[0\] must have a 'file_name'"),
        (
            '{"images": [], "annotations": [], "categories": [3]}',
            r"categories\[0\] must be a JSON object, got the number 3",
        ),
    ],
)
def test_what_is_no_coco_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=f"^annotations: .*x.json:? .*{message}"):
        coco_photos(tmp_path, tmp_path / "x.json", NAMES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bbox": None}, "must have 'bbox' .*, got None"),
        ({"bbox": [1, 2, 3]}, "must have 'bbox' .*, four finite numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "must have 'bbox' .*, four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "'bbox' must have a width and height of 0 or more"),
        ({"category_id": float("inf")}, "must have a whole number as 'category_id', got inf"),
        ({"image_id": 8}, "image_id must be one of the 1 images"),
        ({"iscrowd": "no"}, "'iscrowd' must be 0 or 1"),
        ({"segmentation": [[]]}, "'segmentation' must be polygons .* of three corners or more"),
        ({"segmentation": [[1, 2, 3, 4]]}, "'segmentation' must be polygons .* of three corners or more"),
        ({"segmentation": [[1e9, 1, 3, 1, 3, 3]]}, "within 100000 pixels of the image"),
        ({"segmentation": [[1, 1, 3, None, 3, 3]]}, "'segmentation' must be polygons"),
        ({"segmentation": "00"}, "'segmentation' must be polygons, or run lengths"),
        ({"segmentation": {"size": [8, 12]}}, "'segmentation' must be polygons, or run lengths"),
        ({"segmentation": {"size": [8, 12], "counts": [-1, 97]}}, "'segmentation' must be polygons, or run lengths"),
        ({"segmentation": {"size": [8, float("nan")], "counts": [96]}}, "'segmentation' must be polygons, or run"),
    ],
)
def test_a_wrong_entry_of_an_annotation_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    file = coco_file(tmp_path, [annotation(1, [0, 0, 2, 2]), annotation(1, [0, 0, 2, 2], **changed)])
    with pytest.raises(ValueError, match=rf"^annotations: .*instances\.json: annotations(\[1\])?:? .*{message}"):
        coco_photos(tmp_path, file, NAMES)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), None, 1.5, 2**60])
def test_a_category_without_a_whole_id_is_named(tmp_path: Path, number: Any) -> None:
    file = coco_file(tmp_path, [], categories=[{"id": number, "name": "dog"}])
    with pytest.raises(ValueError, match=r"categories\[0\] must have a whole number below 2\*\*53 as 'id'"):
        coco_photos(tmp_path, file, NAMES)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([0, 95], "must add up to 8 x 12 pixels, got 95"),  # pycocotools would draw what memory happens to hold
        ([0, 97], "must add up to 8 x 12 pixels, got 97"),
        ("abc", "are damaged or cut off"),
        ("0", "must add up to 8 x 12 pixels, got 0"),
        ("0\u00e9", "cannot hold 'é'"),
        ("o" * 10**5, "cannot hold 'o'"),
    ],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(tmp_path: Path, counts: Any, message: str) -> None:
    listed = [annotation(1, [0, 0, 2, 2], segmentation={"size": [8, 12], "counts": counts})]
    (photo,) = coco_photos(tmp_path, coco_file(tmp_path, listed), NAMES)
    with pytest.raises(ValueError, match=f"annotation 1: .*{message}"):
        photo.load()


def test_run_lengths_are_read_as_pycocotools_reads_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(side) for side in generator.integers(1, 40, 2))
        drawn = np.asfortranarray(generator.random((height, width)) < generator.random(), dtype=np.uint8)
        text = rle.encode(drawn)["counts"].decode()
        found = draw_segmentation({"size": [height, width], "counts": text}, (height, width), "it")
        np.testing.assert_array_equal(found, drawn.astype(bool))


def test_absent_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images: no such folder"):
        coco_photos(tmp_path / "none", tmp_path / "x.json", NAMES)
    with pytest.raises(FileNotFoundError, match="annotations: no such file"):
        coco_photos(tmp_path, tmp_path / "x.json", NAMES)
    path = coco_file(tmp_path, [])
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="none of the 1 images"):
        coco_photos(tmp_path, path, NAMES)


def test_the_surer_detection_takes_the_object() -> None:
    objects = Objects(torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10]]), torch.tensor([1, 1]))
    boxes = [[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 4], [20, 0, 30, 10], [20, 0, 30, 9]]
    found = Detections(boxes, [0.5, 0.9, 0.8, 0.7, 0.6], [1, 1, 1, 2, 1])
    # 0: taken by 1; 2: IoU 0.4; 3: another label
    assert match_objects(found, objects.boxes, objects.labels) == [-1, 0, -1, -1, 1]
    assert match_objects(found, torch.zeros(0, 4), torch.zeros(0)) == [-1] * 5


def test_every_detection_is_as_likely_to_be_drawn() -> None:
    eligible = {0: [0], 1: list(range(9)), 5: [3, 7]}
    drawn: Counter[tuple[int, int]] = Counter()
    for seed in range(600):
        sample = draw_detections(eligible, 4, seed)
        assert sum(map(len, sample.values())) == 4
        drawn.update((number, place) for number, places in sample.items() for place in places)
    assert len(drawn) == 12
    assert all(150 <= times <= 250 for times in drawn.values())  # 200 expected, deviation 12
    assert draw_detections(eligible, 4, 1) == draw_detections(eligible, 4, 1)
    assert draw_detections(eligible, 40, 1) == eligible


def test_scenes_tell_what_decided() -> None:
    names = {label + 1: name for label, name in enumerate(CLASS_NAMES)}
    (photo, *_) = photos = scene_photos(names, ["redundant", "context"], 2)
    assert [(p.name, p.kind) for p in photos] == [
        ("context-500", "context"), ("context-501", "context"), ("redundant-500", "redundant"),
        ("redundant-501", "redundant"),
    ]  # fmt: skip
    scene = generate(500, "context")
    image, truth = photo.load()
    assert np.array_equal(image, scene.image)
    assert truth.objects.labels.tolist() == [label + 1 for label in scene.labels]
    assert truth.evidence is not None
    assert np.array_equal(truth.evidence.numpy(), scene.evidence)
    sample = EvaluatedDetections(
        0, photo, Detections([[0, 0, 5, 5], scene.boxes[0].tolist()], [0.9, 0.8], [1, 5]), (0, 1), (-1, 0)
    )
    nothing: Any = sample.known(truth, [0])
    known: Any = sample.known(truth, [1])
    assert not nothing["evidence"].any()
    assert nothing["causes"][0].shape == (0, 160, 160)
    assert np.array_equal(known["evidence"][0], scene.evidence[0])
    assert known["causes"][0].shape == (len(scene.evidence_parts[0]), 160, 160)
    both: Any = sample.known(truth, [1, 0])
    assert torch.equal(both["evidence"], torch.cat([known["evidence"], nothing["evidence"]]))
    assert both["object_of"].tolist() == [0, -1]


def test_scenes_for_a_detector_that_knows_them_only() -> None:
    with pytest.raises(ValueError, match="knows none of the scenes' classes"):
        scene_photos({0: "person"})
    with pytest.raises(ValueError, match="n_scenes must be at least 1"):
        scene_photos({0: "ticket"}, n=0)
