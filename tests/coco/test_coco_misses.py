"""Where an object was lost, case by case, on candidates small enough to do by hand; what is kept of a map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detxai.coco.parts.measures import Evidence
from detxai.coco.parts.misses import Miss, find_lost_stage, reproduce
from detxai.coco.parts.stored_maps import load_map, store_map
from detxai.coco.selection import Selection, check_selection, select
from detxai.data.error_kinds import LabelledBox
from detxai.detections import Candidates, Detections
from detxai.metrics.energy import energy_share
from detxai.metrics.inputs.maps import box_masks
from detxai.metrics.pointing_game import pointing_hits

GT = (0.0, 0.0, 10.0, 10.0)
NOTHING = Detections([], [], [])


def seen(boxes: list[list[float]], scores: list[list[float]]) -> Candidates:
    class_scores = torch.tensor([scores]).reshape(1, len(boxes), -1)
    return Candidates(torch.tensor([boxes]).reshape(1, -1, 1, 4), class_scores, class_scores.amax(-1), torch.arange(2))


def look(candidates: Candidates, detections: Detections) -> Miss:
    return find_lost_stage(candidates, detections, GT, 0, iou=0.5, threshold=0.25)


NEAR, SHIFTED, FAR = [0.0, 0.0, 10.0, 9.0], [3.0, 0.0, 13.0, 10.0], [50.0, 0.0, 60.0, 10.0]


@pytest.mark.parametrize(
    ("stage", "candidates", "detections"),
    [
        ("no_proposal", ([FAR], [[0.9, 0.1]]), NOTHING),
        ("no_proposal", ([[0.0, 0.0, 10.0, 4.0]], [[0.9, 0.1]]), NOTHING),  # IoU 0.4
        ("wrong_class", ([NEAR], [[0.1, 0.6]]), NOTHING),
        ("low_score", ([NEAR], [[0.2, 0.1]]), NOTHING),
        ("low_score", ([NEAR, FAR], [[0.2, 0.1], [0.9, 0.9]]), Detections([FAR], [0.9], [0])),
        ("suppressed", ([NEAR, [0, 0, 21, 10]], [[0.5, 0.1], [0.7, 0.1]]), Detections([[0, 0, 21, 10]], [0.7], [0])),
        ("wrong_class", ([NEAR], [[0.4, 0.6]]), Detections([NEAR], [0.6], [1])),  # one class for each candidate
        ("cut_off", ([NEAR], [[0.4, 0.1]]), NOTHING),
        ("cut_off", ([NEAR], [[0.4, 0.1]]), Detections([NEAR], [0.3], [1])),  # a weaker box suppresses nothing
        ("found_now", ([NEAR], [[0.4, 0.1]]), Detections([NEAR], [0.4], [0])),
    ],
)
def test_each_stage(
    stage: str, candidates: tuple[list[list[float]], list[list[float]]], detections: Detections
) -> None:
    assert look(seen(*candidates), detections).stage == stage


def test_what_is_told_of_the_best_candidate_and_its_suppressor() -> None:
    wide = [0.0, 0.0, 18.0, 10.0]
    miss = look(seen([SHIFTED, NEAR, wide], [[0.4, 0.1], [0.5, 0.1], [0.7, 0.1]]), Detections([wide], [0.7], [0]))
    # the wide box covers the annotation too (IoU 0.56), and scores highest: it is the best candidate, and it is found
    assert miss.stage == "found_now"
    wider = [0.0, 0.0, 21.0, 10.0]  # IoU 0.476 with the annotation, 0.43 with the near candidate
    miss = look(seen([SHIFTED, NEAR, wider], [[0.4, 0.1], [0.5, 0.1], [0.7, 0.1]]), Detections([wider], [0.7], [0]))
    assert (miss.stage, miss.candidate_box, miss.suppressor_box) == ("suppressed", tuple(NEAR), tuple(wider))
    assert miss.candidate_score == pytest.approx(0.5)
    assert miss.candidate_iou == pytest.approx(0.9)
    assert miss.suppressor_score == pytest.approx(0.7)
    assert miss.suppressor_iou == pytest.approx(90 / 210)


def test_no_candidates_at_all() -> None:
    empty = Candidates(torch.zeros(1, 0, 1, 4), torch.zeros(1, 0, 2), torch.zeros(1, 0), torch.arange(2))
    assert look(empty, NOTHING) == Miss("no_proposal", 0.0, 0.0, GT)


def test_reproduction_takes_the_box_of_the_class_that_scores_alike() -> None:
    now = Detections([NEAR, NEAR, [0.0, 0.0, 10.0, 8.9]], [0.9, 0.3, 0.31], [1, 0, 0])
    found = reproduce(now, (0.0, 0.0, 10.0, 9.0), 0, 0.31)
    assert found.score == pytest.approx(0.31)
    assert found.reproduced
    assert not reproduce(now, (0.0, 0.0, 10.0, 9.0), 0, 0.5).reproduced
    assert reproduce(now, (0.0, 0.0, 10.0, 9.0), 2, 0.5) == reproduce(NOTHING, GT, 0, 0.5)
    assert reproduce(NOTHING, GT, 0, 0.5).score is None


def case(kind: str, score: float | None, loss: float | None = None, image: int = 1, area: float = 100.0) -> LabelledBox:
    return LabelledBox(image, 1, GT, kind, score, area=area, ap_loss=loss, category="cat")  # type: ignore[arg-type]


CASES = [
    case("true_positive", 0.9),
    case("background", 0.8, 0.1),
    case("background", 0.1, 0.3),
    case("missed", None, 0.2, image=2, area=5000.0),
    case("duplicate", 0.5, 0.1, image=2),
]


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({}, [1, 2, 3, 4]),
        ({"kinds": ["true_positive", "missed"]}, [0, 3]),
        ({"min_score": 0.25}, [1, 3, 4]),
        ({"max_score": 0.6}, [2, 3, 4]),
        ({"image_ids": [1]}, [1, 2]),
        ({"min_area": 1024}, [3]),
        ({"max_area": 1024}, [1, 2, 4]),
        ({"classes": ["cat"]}, [1, 2, 3, 4]),
        ({"classes": ["dog"]}, []),
        ({"worst": 2}, [2, 3]),
        ({"worst": 3}, [1, 2, 3]),  # of equal losses the surer one
        ({"worst": 9}, [1, 2, 3, 4]),
        ({"max_images": 1}, [1, 2]),
        ({"worst": 1, "max_images": 1}, [2]),
    ],
)
def test_selections(settings: dict[str, object], places: list[int]) -> None:
    chosen = select(CASES, Selection(**settings))  # type: ignore[arg-type]
    assert chosen == [CASES[place] for place in places]


@pytest.mark.parametrize(
    "settings",
    [{"kinds": ["bad"]}, {"kinds": []}, {"min_score": float("nan")}, {"min_area": 5, "max_area": 1}, {"worst": 0}],
)
def test_bad_selections_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Selection(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes must be some of cat; got dgo"):
        check_selection(Selection(classes=["dgo"]), {1: "cat"}, {1})
    with pytest.raises(ValueError, match="image_ids must be ids of the 2 annotated images, got 7"):
        check_selection(Selection(image_ids=[1, 7]), {1: "cat"}, {1, 2})


@pytest.mark.parametrize("name", ["signed", "positive", "negative", "flat", "zero", "tiny", "huge"])
def test_maps_come_back_within_half_a_level(name: str) -> None:
    noise = np.random.default_rng(0).normal(size=(33, 47)).astype(np.float32)
    values = {
        "signed": noise, "positive": np.abs(noise) + 1, "negative": -np.abs(noise) - 1, "flat": noise * 0 + 3,
        "zero": noise * 0, "tiny": noise * np.float32(1e-30), "huge": noise * np.float32(1e30),
    }[name]  # fmt: skip
    values[:5] = 0 if name == "signed" else values[:5]
    stored = store_map(values)
    back = load_map(stored, 33, 47)
    assert np.abs(back - values).max() <= stored.scale * 0.501
    assert stored.scale <= (values.max() - values.min()) / 254 * 1.001
    assert (back[values == 0] == 0).all()
    assert (np.sign(back) * np.sign(values) >= 0).all()


def test_coarse_maps_keep_their_place() -> None:
    rows, columns = np.mgrid[:50, :70].astype(np.float32)
    values = rows + 2 * columns
    back = load_map(store_map(values, stride=8), 50, 70, stride=8)
    assert np.abs(back - values)[8:-8, 8:-8].max() < 1.5  # a slope of 2 a pixel, a level is 0.7
    with pytest.raises(ValueError, match="map_png must be 8-bit grey of shape"):
        load_map(store_map(values), 50, 71)


BOXES = [
    (3.2, 4.7, 20.1, 17.5), (0.5, 0.5, 1.5, 1.5), (-9.0, -9.0, 60.0, 60.0), (30.0, 20.0, 99.0, 99.0),
    (5.0, 5.0, 5.0, 9.0), (-20.0, 2.0, -3.0, 9.0), (47.0, 0.0, 60.0, 5.0), (4.5, 4.5, 5.4, 5.5),
]  # fmt: skip


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("kind", ["signed", "negative", "plateaus", "constant"])
def test_measures_are_those_of_the_metrics(box: tuple[float, ...], kind: str) -> None:
    noise = np.random.default_rng(1).normal(size=(33, 47)).astype(np.float32)
    constant = np.full_like(noise, 0.5)
    kinds = {"signed": noise, "negative": -np.abs(noise), "plateaus": noise.clip(-1, 0.5), "constant": constant}
    values = kinds[kind]
    ours = Evidence.from_values(values).measures(box)
    map_, inside = torch.from_numpy(values)[None], box_masks(torch.tensor([box]), (33, 47))
    assert ours["energy_box"] == pytest.approx(float(energy_share(map_, inside)), abs=1e-6)
    assert ours["energy_box_chance"] == pytest.approx(float(inside.float().mean()), abs=1e-6)
    assert ours["pointing_box"] == pytest.approx(float(pointing_hits(map_, inside)), abs=1e-6)
