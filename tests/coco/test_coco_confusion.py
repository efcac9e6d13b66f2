"""The confusion matrix counts every prediction once, and every annotation at least once."""

from __future__ import annotations

from collections import Counter

import pytest
from coco_files import random_dataset

from detxai.coco.label import boxes_at_operating_point
from detxai.coco.summaries.confusion import NOTHING, Confusion
from detxai.data.coco_files import as_annotations, as_predictions
from detxai.data.cocoeval import evaluate


@pytest.mark.parametrize("seed", range(3))
def test_columns_are_predictions_and_rows_annotations(seed: int) -> None:
    content, results = random_dataset(seed, n_images=8, n_predictions=90)
    annotations = as_annotations(content)
    predictions = as_predictions(results, annotations)
    boxes = boxes_at_operating_point(annotations, predictions, evaluate(annotations, predictions), 0.5, 0.3)
    counts = Confusion(boxes).counts
    names = {category["id"]: category["name"] for category in content["categories"]}
    predicted: Counter[str] = Counter()
    ignored = {box.prediction_id for box in boxes if box.kind == "ignored"}
    for place, record in enumerate(results, start=1):
        predicted[names[record["category_id"]]] += record["score"] >= 0.3 and place not in ignored
    annotated = Counter(names[one["category_id"]] for one in content["annotations"] if not one["iscrowd"])
    for name in names.values():
        assert sum(n for (_, column), n in counts.items() if column == name) == predicted[name]
        assert sum(n for (row, _), n in counts.items() if row == name) >= annotated[name]
        assert counts[name, name] == sum(b.kind == "true_positive" and b.category == name for b in boxes)
    assert counts[NOTHING, NOTHING] == 0
    off = Confusion(boxes).confused()
    assert [n for _, n in off] == sorted((n for (a, p), n in counts.items() if a != p), reverse=True)
    assert Confusion(boxes).classes(2) == Confusion(boxes).classes(3)[:2]


def test_an_annotation_taken_for_another_class_is_not_missed_again() -> None:
    images = [{"id": 1, "file_name": "a.png", "height": 50, "width": 50}]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    truth = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    annotations = as_annotations({"images": images, "categories": categories, "annotations": [truth]})
    dog = {"image_id": 1, "category_id": 2, "bbox": [5, 5, 20, 20], "score": 0.9}
    off = {"image_id": 1, "category_id": 1, "bbox": [15, 15, 20, 20], "score": 0.8}
    for results, expected in (
        ([dog], {("cat", "dog"): 1}),
        ([off], {(NOTHING, "cat"): 1, ("cat", NOTHING): 1}),
        ([], {("cat", NOTHING): 1}),
        ([dog, off], {("cat", "dog"): 1, (NOTHING, "cat"): 1}),
    ):
        predictions = as_predictions(results, annotations)
        boxes = boxes_at_operating_point(annotations, predictions, evaluate(annotations, predictions), 0.5, 0.25)
        assert Confusion(boxes).counts == expected
