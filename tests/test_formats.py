"""Detections survive the way to every other format and back."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detxai import formats
from detxai.detections import Detections

NAMES = {1: "person", 3: "car", 90: "toothbrush"}


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    side = st.floats(0, 2000, width=32)
    boxes, scores, labels = [], [], []
    for _ in range(draw(st.integers(0, 4))):
        xs, ys = sorted([draw(side), draw(side)]), sorted([draw(side), draw(side)])
        boxes.append([xs[0], ys[0], xs[1], ys[1]])
        scores.append(draw(st.floats(0, 1, width=32)))
        labels.append(draw(st.sampled_from(sorted(NAMES))))
    return Detections(boxes, scores, labels, NAMES)


def same(first: Detections, second: Detections, *, scores: bool = True) -> None:
    assert torch.allclose(first.boxes, second.boxes, rtol=1e-6, atol=0)
    assert torch.equal(first.labels, second.labels)
    if scores:
        assert torch.equal(first.scores, second.scores)


@given(detections())
@settings(max_examples=40, deadline=None)
def test_torchvision_round_trip(found: Detections) -> None:
    same(formats.from_torchvision(formats.to_torchvision(found), NAMES), found)


@given(detections())
@settings(max_examples=40, deadline=None)
def test_coco_results_round_trip_through_json(found: Detections) -> None:
    back = formats.from_coco(json.loads(json.dumps(formats.to_coco_results(found, 42))), NAMES)
    same(back, found)
    assert back.class_names == found.class_names


@given(detections())
@settings(max_examples=40, deadline=None)
def test_coco_annotations_round_trip_with_a_category_table(found: Detections) -> None:
    table = {1: 10, 3: 30, 90: 900}
    records = formats.to_coco_annotations(found, 42, first_id=5, label_to_category=table)
    assert [record["id"] for record in records] == list(range(5, 5 + len(found)))
    assert {record["category_id"] for record in records} <= set(table.values())
    same(formats.from_coco(records, NAMES, label_to_category=table), found, scores=False)


@given(detections())
@settings(max_examples=15, deadline=None)
def test_ultralytics_round_trip(found: Detections) -> None:
    pytest.importorskip("ultralytics")
    result = formats.to_ultralytics(found, np.zeros((2000, 2000, 3), dtype=np.uint8))
    same(formats.from_ultralytics(result), found)


def test_ultralytics_gets_the_image_in_its_own_channel_order() -> None:
    pytest.importorskip("ultralytics")
    red = np.zeros((4, 6, 3), dtype=np.uint8)
    red[..., 0] = 255
    result = formats.to_ultralytics(Detections([], [], []), red)
    assert result.orig_img[0, 0].tolist() == [0, 0, 255]
    assert result.orig_shape == (4, 6)


def test_rotated_boxes_become_the_upright_ones_around_them() -> None:
    results = pytest.importorskip("ultralytics.engine.results")
    quarter_turn = torch.tensor([[50.0, 40.0, 20.0, 10.0, torch.pi / 2, 0.9, 1.0]])
    result = results.Results(np.zeros((100, 100, 3), np.uint8), "", {1: "ship"}, obb=quarter_turn)
    found = formats.from_ultralytics(result)
    assert torch.allclose(found.boxes, torch.tensor([[45.0, 30.0, 55.0, 50.0]]), atol=1e-3)
    assert found.name(0) == "ship"


@dataclass
class FakeSupervision:
    """What ``supervision.Detections`` offers, without the dependency."""

    xyxy: np.ndarray
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)


@given(detections())
@settings(max_examples=25, deadline=None)
def test_supervision_round_trip(found: Detections) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=FakeSupervision))
        there = formats.to_supervision(found)
    back = formats.from_supervision(there)
    same(back, found)
    assert [back.name(i) for i in range(len(back))] == [found.name(i) for i in range(len(found))]


def test_ground_truth_has_scores_of_one() -> None:
    truth = FakeSupervision(np.array([[0, 0, 4, 4]]), class_id=np.array([3]))
    assert formats.from_supervision(truth).scores.tolist() == [1]
    assert formats.from_coco([{"bbox": [0, 0, 4, 4], "category_id": 3}]).scores.tolist() == [1]


def test_yolo_labels_meet_coco_ids_by_name() -> None:
    categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    table = formats.match_categories(["person", "toothbrush", "unicorn"], categories)
    assert table == {0: 1, 1: 90}
    (record,) = formats.to_coco_results(Detections([[0, 0, 1, 1]], [0.5], [1]), 7, label_to_category=table)
    assert record["category_id"] == 90


def test_names_match_but_for_case_spaces_and_underscores() -> None:
    categories = [{"id": 1, "name": "Stop Sign"}, {"id": 2, "name": "N/A"}]
    assert formats.match_categories({4: "stop_sign", 5: "Stop signs"}, categories) == {4: 1}
    with pytest.raises(ValueError, match=r"the labels \[0, 7\] are all called 'N/A'"):
        formats.match_categories({0: "N/A", 7: "n/a"}, categories)
    assert formats.match_categories({0: "n/b", 7: "n/b", 8: "N/A"}, categories) == {8: 2}
    with pytest.raises(ValueError, match="categories: 1 and 3 are both called 'stop_sign'"):
        formats.match_categories(["stop sign"], [*categories, {"id": 3, "name": "stop_sign"}])


BOX = {"bbox": [0, 0, 1, 1], "category_id": 1}
ONE = Detections([[0, 0, 1, 1]], [0.5], [1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: formats.from_torchvision([{}]), TypeError, "output must be torchvision's dict of one image, got list"),  # type: ignore[arg-type]
        (lambda: formats.from_torchvision({"boxes": torch.zeros(0, 4)}), ValueError, "'boxes' and 'labels'"),
        (lambda: formats.from_ultralytics([1]), TypeError, "one by one"),
        (
            lambda: formats.from_ultralytics(SimpleNamespace(boxes=None, names={}, orig_shape=(1, 1))),
            ValueError,
            "must have boxes",
        ),
        (lambda: formats.from_coco({"annotations": []}), TypeError, "records must be a list"),  # type: ignore[arg-type]
        (lambda: formats.from_coco([3]), TypeError, r"records\[0\] must be a dict"),  # type: ignore[list-item]
        (lambda: formats.from_coco([{"category_id": 1}]), ValueError, "must have bbox"),
        (lambda: formats.from_coco([{**BOX, "bbox": [0, 0, -1, 1]}]), ValueError, "bbox must be"),
        (lambda: formats.from_coco([BOX, {**BOX, "score": 0.5}]), ValueError, "all have a score"),
        (lambda: formats.from_coco([{**BOX, "image_id": i} for i in (1, 2)]), ValueError, "of one image"),
        (lambda: formats.from_coco([BOX], label_to_category={0: 5}), LookupError, "category_id 1 is not in"),
        (lambda: formats.from_coco([BOX], label_to_category={0: 5, 1: 5}), ValueError, "a different category"),
        (lambda: formats.to_coco_results(ONE, 1, label_to_category={}), LookupError, "label 1 is not in"),
        (lambda: formats.to_coco_annotations(ONE, 1, first_id=0), ValueError, "first_id"),
        (lambda: formats.category_names([{"name": "x"}]), ValueError, "categories must be"),
        (lambda: formats.from_supervision(3), TypeError, "supervision.Detections, got int"),
        (lambda: formats.from_supervision(FakeSupervision(np.zeros((1, 4)))), ValueError, "class_id"),
        (lambda: formats.to_torchvision({}), TypeError, "detxai.Detections, got dict"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("package", ["supervision", "ultralytics"])
def test_a_missing_package_comes_with_its_pip_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.engine.results", None)
    call = (
        formats.to_supervision
        if package == "supervision"
        else lambda d: formats.to_ultralytics(d, np.zeros((2, 2, 3), np.uint8))
    )
    with pytest.raises(ImportError, match="pip install"):
        call(ONE)
