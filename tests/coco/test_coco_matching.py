"""Labels and AP are COCOeval's; kinds are TIDE's; the loss of AP is what taking a box away really changes."""

from __future__ import annotations

import copy
import math
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import random_dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detxai.data.ap_loss import ap_losses
from detxai.data.coco_files import as_annotations, as_predictions, read_annotations
from detxai.data.cocoeval import class_ap, evaluate, finished, matching, summary
from detxai.data.error_kinds import FALSE_POSITIVES, LabelledBox, labelled_boxes

SEEDS = range(6)


def cocos(seed: int) -> tuple[Any, Any]:
    content, results = random_dataset(seed)
    annotations = as_annotations(content)
    return annotations, as_predictions(results, annotations)


def peer(content: Any, results: Any, iou: float | None = None) -> Any:
    """pycocotools by itself, from its own loadRes."""
    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(content)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        if iou is not None:
            evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
        evaluation.accumulate()
        if iou is None:
            evaluation.summarize()
    return evaluation


def labelled(seed: int, iou: float = 0.5) -> tuple[list[LabelledBox], Any]:
    annotations, predictions = cocos(seed)
    evaluation = evaluate(annotations, predictions)
    return labelled_boxes(annotations, predictions, matching(evaluation, iou)), evaluation


@pytest.mark.parametrize("seed", SEEDS)
def test_ap_is_pycocotools_own(seed: int) -> None:
    ours = summary(evaluate(*cocos(seed)))
    for (name, value), theirs in zip(ours.items(), peer(*random_dataset(seed)).stats, strict=True):
        assert value == pytest.approx(theirs, abs=1e-12) or (math.isnan(value) and theirs == -1), name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_every_label_is_the_one_in_evalimgs(seed: int, iou: float) -> None:
    found, _ = labelled(seed, iou)
    by_prediction = {case.prediction_id: case for case in found if case.prediction_id is not None}
    missed = {case.annotation_id for case in found if case.kind == "missed"}
    theirs = peer(*random_dataset(seed))
    place = {0.5: 0, 0.75: 5}[iou]
    counted, lost = set(), set()
    for answer in theirs.evalImgs:
        if answer is None or answer["aRng"] != theirs.params.areaRng[0]:
            continue
        for column, number in enumerate(answer["dtIds"]):
            case = by_prediction[number]
            counted.add(number)
            match, ignored = int(answer["dtMatches"][place, column]), bool(answer["dtIgnore"][place, column])
            assert (case.kind == "ignored") == ignored
            assert (case.kind == "true_positive") == (match > 0 and not ignored)
            assert (case.kind in FALSE_POSITIVES) == (match == 0 and not ignored)
            if match:
                assert case.annotation_id == match
        for column, number in enumerate(answer["gtIds"]):
            if not answer["gtIgnore"][column] and not answer["gtMatches"][place, column]:
                lost.add(number)
    assert set(by_prediction) == counted
    assert missed == lost


def slow_iou(first: Any, second: Any) -> float:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    width = max(0.0, min(x1 + w1, x2 + w2) - max(x1, x2))
    height = max(0.0, min(y1 + h1, y2 + h2) - max(y1, y2))
    return width * height / (w1 * h1 + w2 * h2 - width * height)


def slow_kind(result: Any, truths: list[Any], found: set[int], iou: float) -> str:
    """TIDE's definitions, one annotation at a time."""
    same = [slow_iou(result["bbox"], t["bbox"]) for t in truths if t["category_id"] == result["category_id"]]
    other = [slow_iou(result["bbox"], t["bbox"]) for t in truths if t["category_id"] != result["category_id"]]
    taken = [
        slow_iou(result["bbox"], t["bbox"])
        for t in truths
        if t["category_id"] == result["category_id"] and t["id"] in found
    ]
    if 0.1 <= max(same, default=0) <= iou:
        return "localisation"
    if max(other, default=0) >= iou:
        return "classification"
    if max(taken, default=0) >= iou:
        return "duplicate"
    return "background" if max(same + other, default=0) <= 0.1 else "both"


@pytest.mark.parametrize("seed", SEEDS)
def test_kinds_are_tides(seed: int) -> None:
    content, results = random_dataset(seed)
    labelled_cases, _ = labelled(seed)
    found = {case.annotation_id or 0 for case in labelled_cases if case.kind == "true_positive"}
    seen = set()
    for case in labelled_cases:
        if case.kind in FALSE_POSITIVES:
            assert case.prediction_id is not None
            truths = [a for a in content["annotations"] if a["image_id"] == case.image_id and not a["iscrowd"]]
            assert case.kind == slow_kind(results[case.prediction_id - 1], truths, found, 0.5)
            seen.add(case.kind)
    assert len(seen) >= 4


def test_each_kind_by_hand() -> None:
    images = [{"id": 1, "file_name": "a.png"}]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    boxes = {1: (1, [0, 0, 10, 10]), 2: (2, [50, 50, 10, 10]), 3: (1, [200, 0, 10, 10]), 4: (1, [300, 0, 10, 10])}
    annotations = as_annotations(
        {
            "images": images,
            "categories": categories,
            "annotations": [{"id": n, "image_id": 1, "category_id": c, "bbox": b} for n, (c, b) in boxes.items()],
        }
    )
    rows: dict[str, tuple[int, list[float], float]] = {
        "true_positive": (1, [0, 0, 10, 10], 0.9),
        "duplicate": (1, [0, 0, 10, 9], 0.8),
        "localisation": (1, [200, 0, 10, 4], 0.7),  # IoU 0.4
        "classification": (1, [50, 50, 10, 10], 0.6),
        "both": (1, [50, 50, 10, 3], 0.5),  # IoU 0.3 with a dog
        "background": (2, [100, 100, 10, 10], 0.4),
    }
    results = [{"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in rows.values()]
    predictions = as_predictions(results, annotations)
    found = labelled_boxes(annotations, predictions, matching(evaluate(annotations, predictions)))
    assert [case.kind for case in found] == [*rows, "missed", "missed", "missed"]
    assert [case.iou for case in found[:6]] == pytest.approx([1, 0.9, 0.4, 1, 0.3, 0])
    missed = {case.annotation_id: case.covered_by for case in found[6:]}
    assert missed == {2: 4, 3: 3, 4: None}  # TIDE counts the misclassified dog and the misplaced cat as those errors


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_the_loss_of_ap_is_what_coco_says_without_the_box(seed: int) -> None:
    content, results = random_dataset(seed)
    labelled_cases, evaluation = labelled(seed)
    losses = ap_losses(labelled_cases, evaluation, 0.5)

    def mean_ap(content: Any, results: Any) -> float:
        precision = peer(content, results, 0.5).eval["precision"][:, :, :, 0, -1]
        return float(np.mean([precision[0, :, k].mean() for k in range(3) if precision[0, 0, k] > -1]))

    base = mean_ap(content, results)
    # without a box nothing else may be matched anew: what is taken away matched nothing
    for case, loss in zip(labelled_cases, losses, strict=True):
        if case.kind in FALSE_POSITIVES:
            assert case.prediction_id is not None
            rest = [result for place, result in enumerate(results) if place != case.prediction_id - 1]
            assert loss == pytest.approx(mean_ap(content, rest) - base, abs=1e-12)
        elif case.kind == "missed":
            rest = [a for a in content["annotations"] if a["id"] != case.annotation_id]
            alone = not any(a["category_id"] == case.category_id and not a["iscrowd"] for a in rest)
            expected = 0 if alone else mean_ap({**content, "annotations": rest}, results) - base
            assert loss == pytest.approx(expected, abs=1e-12)
        else:
            assert loss is None


def test_a_finished_evaluation_is_taken_as_it_is() -> None:
    evaluation = peer(*random_dataset(0))
    assert finished(evaluation) is evaluation


def test_an_evaluation_without_readable_matches_is_redone_with_its_own_settings() -> None:
    """As faster-coco-eval's, which keeps its matches in C++."""
    evaluation = peer(*random_dataset(1), iou=0.75)
    expected = matching(evaluation, 0.75)
    evaluation.evalImgs = {}
    redone = finished(evaluation)
    assert redone is not evaluation
    assert matching(redone, 0.75) == expected
    with pytest.raises(ValueError, match=r"iou must be one of the evaluation's \[0.75\], got 0.5"):
        matching(redone, 0.5)


def test_masks_are_refused() -> None:
    evaluation = peer(*random_dataset(0))
    evaluation.params.iouType = "segm"
    with pytest.raises(ValueError, match="must be of boxes"):
        finished(evaluation)


def test_no_predictions_at_all() -> None:
    content, _ = random_dataset(0)
    annotations = as_annotations(content)
    predictions = as_predictions([], annotations)
    evaluation = evaluate(annotations, predictions)
    found = labelled_boxes(annotations, predictions, matching(evaluation))
    assert {case.kind for case in found} == {"missed"}
    assert len(found) == sum(not a["iscrowd"] for a in content["annotations"])
    assert summary(evaluation)["AP"] == 0
    assert set(class_ap(evaluation).values()) == {0.0}


def test_predictions_beyond_max_dets_are_left_out() -> None:
    content, _ = random_dataset(0)
    image = content["images"][0]["id"]
    many = [
        {"image_id": image, "category_id": 2, "bbox": [1, 1, 5, 5], "score": round(0.9 - i / 1000, 4)}
        for i in range(130)
    ]
    annotations = as_annotations(content)
    predictions = as_predictions(many, annotations)
    found = labelled_boxes(annotations, predictions, matching(evaluate(annotations, predictions)))
    assert sorted(case.prediction_id for case in found if case.prediction_id) == list(range(1, 101))


def test_annotation_id_zero_is_no_match_to_coco_and_so_gets_another(tmp_path: Path) -> None:
    import json

    content = {
        "images": [{"id": 0, "file_name": "a.png"}],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "bbox": [0, 0, 9, 9]},
            {"id": 7, "image_id": 0, "category_id": 0, "bbox": [50, 0, 9, 9]},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    annotations = read_annotations(tmp_path / "a.json")
    results = [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 9, 9], "score": 0.5}]
    predictions = as_predictions(results, annotations)
    found = labelled_boxes(annotations, predictions, matching(evaluate(annotations, predictions)))
    assert [(case.kind, case.annotation_id) for case in found] == [("true_positive", 8), ("missed", 7)]


def test_coco_dev_labels(shared_data: Path) -> None:
    """Annotations of real photos against themselves, moved a little: everything is found once."""
    annotations = read_annotations(shared_data / "coco_dev/instances.json")
    truths = [a for a in annotations.anns.values() if not a["iscrowd"]]
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5} for a in truths
    ]
    predictions = as_predictions(results, annotations)
    evaluation = evaluate(annotations, predictions)
    assert summary(evaluation)["AP"] == pytest.approx(1)
    found = labelled_boxes(annotations, predictions, matching(evaluation))
    assert {case.kind for case in found} == {"true_positive"}
    assert len(found) == len(truths)
