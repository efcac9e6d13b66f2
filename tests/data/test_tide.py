"""What each kind of mistake costs: as COCOeval measures files in which they are corrected, and as tidecv says."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "coco"))
from coco_files import random_dataset

from detxai.data.coco_files import as_annotations, as_predictions
from detxai.data.cocoeval import class_ap, evaluate, matching
from detxai.data.error_kinds import ERRORS, LabelledBox, labelled_boxes
from detxai.data.tide import delta_ap

RECALLS = np.linspace(0, 1, 101)


def dataset(seed: int, *, crowds: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes without equal scores, as the order of ties is each library's own; every class is annotated."""
    content, results = random_dataset(seed, n_images=8, n_predictions=90)
    for place, record in enumerate(results):
        record["score"] += place * 1e-6
    for record in content["annotations"]:
        record["iscrowd"] = record["iscrowd"] if crowds else 0
    seen = {record["category_id"] for record in content["annotations"] if not record["iscrowd"]}
    assert seen == {2, 5, 11}
    return content, results


def mean_ap(content: dict[str, Any], results: list[dict[str, Any]]) -> tuple[float, list[LabelledBox]]:
    """COCOeval's mean AP at 0.5, where a class that has lost all annotations counts 0; and the kind of every box."""
    annotations = as_annotations(copy.deepcopy(content))
    predictions = as_predictions(copy.deepcopy(results), annotations)
    evaluation = evaluate(annotations, predictions)
    boxes = labelled_boxes(annotations, predictions, matching(evaluation, 0.5))
    return float(np.nan_to_num(list(class_ap(evaluation, 0.5).values())).mean()), boxes


def corrected(
    content: dict[str, Any], results: list[dict[str, Any]], boxes: list[LabelledBox], kind: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The files with all mistakes of a kind corrected, box by box, as the paper says."""
    content, results = copy.deepcopy(content), copy.deepcopy(results)
    truths = {record["id"]: record for record in content["annotations"]}
    missed = {box.annotation_id for box in boxes if box.kind == "missed"}
    meant = [box for box in boxes if box.kind in ("localisation", "classification")]
    gone: set[int] = set()
    for box in boxes:
        if box.kind != kind or box.prediction_id is None:
            continue
        rivals = [other.score or 0 for other in meant if other.annotation_id == box.annotation_id]
        if kind in ("localisation", "classification") and box.annotation_id in missed and box.score == max(rivals):
            truth = truths[box.annotation_id or 0]
            results[box.prediction_id - 1] |= {"bbox": truth["bbox"], "category_id": truth["category_id"]}
        else:
            gone.add(box.prediction_id)
    if kind == "missed":
        reached = {box.annotation_id for box in meant}
        lost = missed - reached
        content["annotations"] = [record for record in content["annotations"] if record["id"] not in lost]
    return content, [record for place, record in enumerate(results, start=1) if place not in gone]


@pytest.mark.parametrize("crowds", [False, True], ids=["plain", "crowds"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_ap_of_the_corrected_files(seed: int, crowds: bool) -> None:
    content, results = dataset(seed, crowds=crowds)
    before, boxes = mean_ap(content, results)
    found = delta_ap(boxes, RECALLS)
    assert set(found) == set(ERRORS)
    for kind in ERRORS:
        after, _ = mean_ap(*corrected(content, results, boxes, kind))
        assert found[kind] == pytest.approx(max(0.0, after - before), abs=1e-9), kind
    assert sum(value > 0 for value in found.values()) >= 4  # else there would be nothing to tell apart


@pytest.mark.parametrize("seed", range(6))
def test_it_is_tidecvs(seed: int) -> None:
    """Without crowds, and with every class annotated: there the two differ, as the module says."""
    tidecv = pytest.importorskip("tidecv", reason="tidecv is not installed: python -m pip install tidecv")
    content, results = dataset(seed, crowds=False)
    _, boxes = mean_ap(content, results)
    truth, predicted = tidecv.Data("truth"), tidecv.Data("predicted")
    for image in content["images"]:
        truth.add_image(image["id"], image["file_name"])
        predicted.add_image(image["id"], image["file_name"])
    for category in content["categories"]:
        truth.add_class(category["id"], category["name"])
    for record in content["annotations"]:
        truth.add_ground_truth(record["image_id"], record["category_id"], record["bbox"], None)
    for record in results:
        predicted.add_detection(record["image_id"], record["category_id"], record["score"], record["bbox"], None)
    tide = tidecv.TIDE()
    tide.evaluate(truth, predicted, mode=tidecv.TIDE.BOX)
    theirs = tide.get_main_errors()["predicted"]
    counts = tide.runs["predicted"].count_errors()
    kinds = Counter(box.kind for box in boxes if box.kind != "missed" or box.covered_by is None)
    ours = delta_ap(boxes, np.arange(101) / 100)  # its recalls: some differ from COCOeval's in the last bit
    names = {"Cls": "classification", "Loc": "localisation", "Both": "both", "Dupe": "duplicate",
             "Bkg": "background", "Miss": "missed"}  # fmt: skip
    assert {names[kind.short_name]: n for kind, n in counts.items()} == {kind: kinds[kind] for kind in ERRORS}
    assert {names[name]: value for name, value in theirs.items()} == pytest.approx(
        {kind: 100 * value for kind, value in ours.items()}, abs=1e-9
    )


def test_a_class_whose_every_annotation_was_missed_counts_as_tidecv_counts_it() -> None:
    """The class stays in the mean with an AP of 0 where it has predictions, and is gone where it has none."""
    first, second = (0.0, 0.0, 9.0, 9.0), (50.0, 50.0, 59.0, 59.0)
    hit = LabelledBox(1, 1, first, "true_positive", score=0.5, prediction_id=1, annotation_id=1, category="cat")
    miss = LabelledBox(1, 2, second, "missed", annotation_id=2, category="dog")
    ghost = LabelledBox(1, 2, first, "background", score=0.5, prediction_id=2, category="dog")
    assert delta_ap([hit, miss, ghost], RECALLS)["missed"] == 0.0
    assert delta_ap([hit, miss], RECALLS)["missed"] == 0.5
    other = LabelledBox(1, 1, second, "missed", annotation_id=3, category="cat")
    assert delta_ap([hit, other], RECALLS)["missed"] == pytest.approx(1 - 51 / 101)


def test_nothing_annotated_costs_nothing() -> None:
    assert set(delta_ap([], RECALLS).values()) == {0.0}
    ghost = LabelledBox(1, 1, (0.0, 0.0, 1.0, 1.0), "background", score=0.5, prediction_id=1)
    assert set(delta_ap([ghost], RECALLS).values()) == {0.0}
