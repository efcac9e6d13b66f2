"""Insertion and deletion against a loop that paints pixels and asks the detector about one image at a time."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

import numpy as np
import pytest
import torch
from small_cases import noise, scene_case, scene_detections, scene_image, scenes_detector, smooth
from torch import Tensor

import detxai
import detxai.engine.masking.scoring
from detxai.adapters.detector import Inputs
from detxai.adapters.network import require_network
from detxai.detections import Candidates, Detections
from detxai.engine.masking.canvas import Canvas, filling_image
from detxai.engine.masking.regions import Partitions
from detxai.engine.masking.scoring import ViewScorer, score_all
from detxai.geometry import box_iou
from detxai.metrics import Case, InsertionDeletion, Objects
from detxai.metrics.inputs.scores import GatedScoreTarget, detection_targets
from detxai.metrics.insertion_deletion import Curves, pixel_ranks, pixels_at, region_ranks
from detxai.targets import BoxScoreTarget, score_targets

ALL_THREE: Any = ["black", "mean", "blur"]
SAME: Any = {"atol": 2e-5, "rtol": 0}  # batches of other sizes round otherwise


def best(candidates: Candidates, box: Tensor, label: int) -> float:
    """Score A written out: max over all candidates of IoU times the class's score."""
    column = candidates.labels.tolist().index(label)
    boxes = candidates.boxes[0, :, min(column, candidates.boxes.shape[2] - 1)]
    return float((box_iou(box, boxes) * candidates.class_scores[0, :, column]).max())


def by_painting(case: Case, steps: int, fill: Any, seed: int) -> Curves:
    """Paint the filling over pixels of the photo, and ask about one photo at a time."""
    filling = filling_image(case.image, fill, seed)
    n_pixels = case.image.shape[0] * case.image.shape[1]
    insertion, deletion = (torch.zeros(len(case), steps + 1) for _ in range(2))
    for t in range(len(case)):
        ranks = pixel_ranks(case.maps[t : t + 1], seed)[0].numpy()
        for step in range(steps + 1):
            first = (ranks < round(step * n_pixels / steps))[:, :, None]
            for curve, shown in ((insertion, first), (deletion, ~first)):
                photo = np.where(shown, case.image, filling)
                with torch.no_grad():
                    candidates = case.detector.candidates(photo)
                curve[t, step] = best(candidates, case.detections.boxes[t], int(case.detections.labels[t]))
    return Curves(torch.linspace(0, 1, steps + 1), insertion, deletion)


@pytest.mark.parametrize("fill", ["black", "mean", "blur", "noise", (0.2, 0.5, 0.9)])
def test_equals_painting_the_photo_one_at_a_time(fill: Any) -> None:
    case = scene_case()
    found = InsertionDeletion(steps=4, fill=fill, seed=3).curves(case)
    expected = by_painting(case, 4, fill, 3)
    torch.testing.assert_close(found.insertion, expected.insertion, **SAME)
    torch.testing.assert_close(found.deletion, expected.deletion, **SAME)
    assert found.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    torch.testing.assert_close(found.clean, case.detections.scores, atol=0.01, rtol=0)


def test_equals_painting_on_a_yolo() -> None:
    pytest.importorskip("ultralytics")
    from yolo_seeded import bus, seeded

    photo = bus(160, 160)
    detector = detxai.wrap(seeded("v8"))
    found = detector.detect(photo)[:2]
    case = Case(detector, np.asarray(photo), found, smooth(len(found), 160, 160))
    assert detector.prepare(photo).geometries[0].resized_size == (160, 160)
    curves = InsertionDeletion(steps=3).curves(case)
    expected = by_painting(case, 3, "black", 0)
    torch.testing.assert_close(curves.insertion, expected.insertion, **SAME)
    torch.testing.assert_close(curves.deletion, expected.deletion, **SAME)


def test_ranks_are_of_the_models_input_where_that_is_smaller() -> None:
    """A letterboxed photo: masks are made on the 80 x 160 pixels that the model reads."""
    pytest.importorskip("ultralytics")
    from yolo_seeded import bus, seeded

    photo = np.asarray(bus(240, 120))
    detector = detxai.wrap(seeded("v8"))
    clean = detector.prepare(photo)
    (geometry,) = clean.geometries
    found = detector.detect(photo, 0.05)[:1]
    assert len(found)
    case = Case(detector, photo, found, smooth(1, 120, 240))
    curves = InsertionDeletion(steps=2).curves(case)
    small = torch.nn.functional.interpolate(
        case.maps[None], geometry.resized_size, mode="bilinear", align_corners=False, antialias=True
    )[0]
    half = pixel_ranks(small)[0] < round(small.numel() / 2)
    (top, left), (height, width) = geometry.offset, geometry.resized_size
    tensor = clean.tensor.clone()
    tensor[0, :, top : top + height, left : left + width] *= half
    with torch.no_grad():
        candidates = detector.candidates(Inputs(tensor, clean.geometries, clean.images))
    expected = best(candidates, found.boxes[0], int(found.labels[0]))
    assert float(curves.insertion[0, 1]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    case = scene_case()
    one = InsertionDeletion(steps=5).curves(case)
    other = InsertionDeletion(steps=5, batch_size=batch_size).curves(case)
    torch.testing.assert_close(one.insertion, other.insertion, **SAME)
    torch.testing.assert_close(one.deletion, other.deletion, **SAME)


def test_running_out_of_memory_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes two images at a time."""
    case = scene_case()
    expected = InsertionDeletion(steps=4).curves(case)
    whole, sizes = case.detector._forward, []

    def small_device(inputs: Inputs) -> Candidates:
        sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(inputs)

    monkeypatch.setattr(case.detector, "_forward", small_device)
    found = InsertionDeletion(steps=4, batch_size=8).curves(case)
    torch.testing.assert_close(found.insertion, expected.insertion, **SAME)
    torch.testing.assert_close(found.deletion, expected.deletion, **SAME)
    assert max(sizes) == 8


def test_several_fills_at_once_are_each_alone() -> None:
    case = scene_case()
    together = InsertionDeletion(steps=3, fill=ALL_THREE)
    found, curves = together(case), together.curves_by_fill(case)
    assert set(found) == set(together.quantities)
    for fill, under in zip(together.fills, curves, strict=True):
        alone = InsertionDeletion(steps=3, fill=fill)
        torch.testing.assert_close(under.insertion, alone.curves(case).insertion, **SAME)
        torch.testing.assert_close(under.deletion, alone.curves(case).deletion, **SAME)
        for name, value in alone(case).items():
            torch.testing.assert_close(found[name if name == "clean_score" else f"{name}_{fill}"], value, **SAME)
            assert together.fill_of(f"{name}_{fill}") == fill


def by_painting_regions(case: Case, labels: np.ndarray, steps: int) -> list[tuple[list[float], Tensor]]:
    """For each detection the shares of the pixels shown, and the scores (2, steps + 1) of insertion and deletion."""
    found = []
    for t in range(len(case)):
        values = case.maps[t].numpy()
        means = {int(region): values[labels == region].mean() for region in np.unique(labels)}
        order = sorted(means, key=lambda region: -means[region])
        shares, scores = [], torch.zeros(2, steps + 1)
        for step in range(steps + 1):
            first = np.isin(labels, order[: round(step * len(order) / steps)])
            shares.append(float(first.mean()))
            for curve, shown in enumerate((first, ~first)):
                with torch.no_grad():
                    candidates = case.detector.candidates(case.image * shown[:, :, None])
                scores[curve, step] = best(candidates, case.detections.boxes[t], int(case.detections.labels[t]))
        found.append((shares, scores))
    return found


def test_superpixels_equal_painting_the_photo_region_by_region() -> None:
    pytest.importorskip("skimage")
    from skimage.segmentation import slic

    case = scene_case()
    labels = slic(case.image / 255, n_segments=100, compactness=20, start_label=0)
    measure = InsertionDeletion(steps=4, unit="superpixel")
    curves = measure.curves(case)
    for t, (shares, scores) in enumerate(by_painting_regions(case, labels, 4)):
        assert curves.fractions[t].tolist() == pytest.approx(shares, abs=1e-6)
        torch.testing.assert_close(curves.insertion[t], scores[0], **SAME)
        torch.testing.assert_close(curves.deletion[t], scores[1], **SAME)
        area = sum(float(scores[0][k] + scores[0][k + 1]) / 2 * (shares[k + 1] - shares[k]) for k in range(4))
        assert float(measure(case)["insertion"][t]) == pytest.approx(area, abs=1e-4)


def test_superpixels_without_scikit_image_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install \"detxai\[superpixels\]\""):
        InsertionDeletion(unit="superpixel")


def test_regions_come_by_their_mean_and_equal_ones_as_the_seed_draws() -> None:
    regions = Partitions.from_labels(torch.tensor([[[0, 0, 1, 2], [0, 0, 1, 2]]]))
    maps = torch.tensor([[[3.0, 0.0, 1.0, 9.0], [0.0, 0.0, 1.0, -9.0]]])  # means 0.75, 1 and 0
    ranks, areas = region_ranks(maps, regions)
    assert ranks.tolist() == [[[1, 1, 0, 2], [1, 1, 0, 2]]]
    assert areas.tolist() == [[0, 2, 6, 8]]
    orders = {tuple(region_ranks(maps * 0, regions, seed)[0][0, 0].tolist()) for seed in range(40)}
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "patch"}, "unit must be one of .*, got 'patch'"),
        ({"fill": ["black", "black"]}, "fill must not name one twice"),
        ({"fill": ["black", "grey"]}, "fill must be one of .*, got 'grey'"),
        ({"fill": []}, "fill must be one of"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InsertionDeletion(**settings)


def test_an_upside_down_map_swaps_the_curves() -> None:
    """Pixels come in the opposite order, so what appeared last vanishes first."""
    case = scene_case()
    one = InsertionDeletion(steps=5).curves(case)
    other = InsertionDeletion(steps=5).curves(scene_case(-case.maps))
    torch.testing.assert_close(one.insertion.flip(1), other.deletion, **SAME)
    summary = [InsertionDeletion().summary(curves)["overall"] for curves in (one, other)]
    torch.testing.assert_close(summary[0], -summary[1], **SAME)


def test_mark_and_body_beat_a_random_map_which_beats_them_upside_down() -> None:
    """On scenes whose cause is planted, the mark decides the class and the body the box. Random numbers are at 0."""
    from detxai.scenes import CLASS_NAMES, generate

    detector = scenes_detector()
    overall: dict[str, list[float]] = {"known": [], "random": [], "inverted": []}
    for seed in (0, 1):
        scene = generate(seed, "local")
        found = detector.detect(scene.image, 0.5)
        names = [CLASS_NAMES[label] for label in scene.labels]
        pairs = [(t, names.index(found.name(t))) for t in range(len(found)) if found.name(t) in names]
        pairs = [(t, g) for t, g in pairs if scene.evidence[g].any()]
        chosen = found[[t for t, _ in pairs]]
        known = torch.stack([torch.from_numpy(2.0 * scene.evidence[g] + scene.silhouettes[g]) for _, g in pairs])
        maps = {"known": known, "random": noise(len(pairs), 160, 160, seed), "inverted": -known}
        for name, values in maps.items():
            case = Case(detector, scene.image, chosen, values, allow_cropped=True)
            overall[name] += InsertionDeletion(steps=5, fill="mean")(case)["overall"].tolist()
    known_, random, inverted = (float(np.mean(overall[name])) for name in ("known", "random", "inverted"))
    assert len(overall["random"]) >= 3
    assert known_ > 0.25
    assert abs(random) < 0.1
    assert inverted < -0.25


def test_the_areas_are_trapezoids_by_hand() -> None:
    """Heights 0 1 1 over two halves: 1/4 + 1/2; heights 0.8 0.4 0: 0.3 + 0.1."""
    curves = Curves(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[0.8, 0.4, 0.0]]))
    found = {key: round(float(value), 6) for key, value in InsertionDeletion().summary(curves).items()}
    assert found == {
        "insertion": 0.75,
        "deletion": 0.4,
        "overall": 0.35,
        "insertion_normalised": 0.9375,
        "deletion_normalised": 0.5,
        "overall_normalised": 0.4375,
        "clean_score": 0.8,
    }


def test_a_detection_that_nothing_supports_cannot_be_normalised() -> None:
    curves = Curves(torch.tensor([0.0, 1.0]), torch.zeros(1, 2), torch.zeros(1, 2))
    found = InsertionDeletion().summary(curves)
    assert float(found["overall"]) == 0
    assert found["overall_normalised"].isnan().all()


def test_ranks_on_four_by_four() -> None:
    values = torch.tensor([[[9.0, 1.0, 2.0, 3.0], [8.0, -1.0, -2.0, -3.0], [7.0, 6.0, 5.0, 4.0], [0.5, 0.4, 0.3, 0.2]]])
    assert pixel_ranks(values).tolist() == [[[0, 8, 7, 6], [1, 13, 14, 15], [2, 3, 4, 5], [9, 10, 11, 12]]]
    assert pixels_at(3, 16).tolist() == [0, 5, 11, 16]


def test_ties_fall_as_the_seed_says_and_evenly() -> None:
    flat = torch.zeros(2, 20, 20)
    ranks = pixel_ranks(flat, seed=1)
    assert torch.equal(ranks[0], ranks[1])
    assert torch.equal(ranks, pixel_ranks(flat, seed=1))
    assert not torch.equal(ranks, pixel_ranks(flat, seed=2))
    assert sorted(ranks[0].flatten().tolist()) == list(range(400))
    assert 150 < float(ranks[0, :10].float().mean()) < 250  # no end of the image goes first
    two = torch.zeros(1, 20, 20)
    two[0, :, 10:] = 1
    assert int(pixel_ranks(two)[0, :, 10:].max()) == 199


def test_each_score_function_is_what_it_says() -> None:
    """Against loops over the candidates of the clean image."""
    case = scene_case()
    with torch.no_grad():
        candidates = case.detector.candidates(case.image)
    boxes, scores, things = candidates.boxes[0], candidates.class_scores[0], candidates.objectness[0]
    for t in range(2):
        box, label = case.detections.boxes[t], int(case.detections.labels[t])
        column = candidates.labels.tolist().index(label)
        iou = box_iou(box, boxes[:, column])
        vector = scores[(iou * scores[:, column]).argmax()]
        cosine = torch.nn.functional.cosine_similarity(scores, vector[None], dim=1)
        expected = {
            "class_score": (iou * scores[:, column]).max(),
            "similarity": (iou * things * cosine).max(),
            "gated_score": (scores[:, column] * (iou > 0.5)).max(),
        }
        for name, value in expected.items():
            target = detection_targets(case, name, "detection")[t]  # type: ignore[arg-type]
            assert float(score_targets([target], candidates)) == pytest.approx(float(value), abs=1e-5), name


def test_box_score_is_another_question() -> None:
    """grad-cam's IoU + p of the best match goes up to 2; score A, IoU * p, does not."""
    case = scene_case()
    with torch.no_grad():
        candidates = case.detector.candidates(case.image)
    total = score_targets(BoxScoreTarget.of(case.detections), candidates)[:, 0]
    product = score_targets(detection_targets(case, "class_score", "detection"), candidates)[:, 0]
    assert bool((total > 1).all())
    assert bool((product <= 1).all())


@pytest.mark.parametrize("score", ["class_score", "similarity", "gated_score"])
def test_every_score_function_makes_curves(score: Any) -> None:
    found = InsertionDeletion(steps=2, score=score)(scene_case())
    assert all(bool(values.isfinite().all()) for values in found.values())
    with torch.no_grad():
        targets = detection_targets(scene_case(), score, "detection")
        clean = score_targets(targets, scenes_detector().candidates(scene_image()))[:, 0]
    torch.testing.assert_close(found["clean_score"], clean, **SAME)


def test_gated_score_has_no_box_of_another_class() -> None:
    output = {"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([2])}
    assert float(GatedScoreTarget([0, 0, 9, 9], label=3)(output)) == 0


def test_the_question_may_be_about_the_annotated_object() -> None:
    """Detections swapped, but each knows its object: the same numbers as asking about the other detection."""
    found = scene_detections()
    objects = Objects(found.boxes, found.labels)
    case = scene_case(objects=objects, object_of=torch.tensor([1, -1]))
    swapped = Case(scenes_detector(), scene_image(), found[[1, 0]], case.maps)
    at_object = InsertionDeletion(steps=2, reference="object")(case)
    expected = InsertionDeletion(steps=2)(swapped)
    for key, values in at_object.items():
        assert float(values[0]) == pytest.approx(float(expected[key][0]), abs=2e-5)
        assert bool(values[1].isnan())


def test_one_step_is_the_two_ends() -> None:
    curves = InsertionDeletion(steps=1).curves(scene_case())
    torch.testing.assert_close(curves.insertion, curves.deletion.flip(1), **SAME)


def images_asked(case: Case, measure: InsertionDeletion, monkeypatch: pytest.MonkeyPatch) -> int:
    whole, asked = case.detector._forward, []

    def counted(inputs: Inputs) -> Candidates:
        asked.append(len(inputs))
        return whole(inputs)

    with monkeypatch.context() as patch:
        patch.setattr(case.detector, "_forward", counted)
        measure.curves(case)
    return sum(asked)


def test_every_image_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """T * 2 * F * (steps - 1) masked images, the whole one, and each fill alone."""
    assert images_asked(scene_case(), InsertionDeletion(steps=6, batch_size=4), monkeypatch) == 2 * 2 * 5 + 2
    several = InsertionDeletion(steps=6, batch_size=4, fill=ALL_THREE)
    assert images_asked(scene_case(), several, monkeypatch) == 2 * 2 * 3 * 5 + 3 + 1


@pytest.mark.parametrize("score", ["class_score", "gated_score"])
def test_one_map_for_all_makes_its_images_once(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves to the last bit as of each detection alone, in batches of the same sizes."""
    measure = InsertionDeletion(steps=5, batch_size=4, score=score)
    one = smooth(1, 160, 160)
    together = scene_case(one.expand(2, -1, -1))
    assert images_asked(together, measure, monkeypatch) == 2 * 4 + 2
    found = measure.curves(together)
    for t in range(2):
        alone = measure.curves(Case(scenes_detector(), scene_image(), scene_detections()[t], one))
        assert torch.equal(found.insertion[t], alone.insertion[0])
        assert torch.equal(found.deletion[t], alone.deletion[0])


def test_many_targets_are_asked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many at a time as memory affords: every one in its place, whatever the parts."""
    case = scene_case()
    with torch.no_grad():
        candidates = case.detector.candidates(case.image)
    targets = detection_targets(case, "class_score", "detection") * 3
    whole = score_all(targets, candidates)
    monkeypatch.setattr(detxai.engine.masking.scoring, "PAIRS_AT_ONCE", 4 * candidates.boxes.shape[1])
    assert torch.equal(score_all(targets, candidates), whole)
    assert torch.equal(whole, score_targets(targets, candidates))


def test_the_model_is_left_alone() -> None:
    detector = require_network(scenes_detector())
    before = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    detector.model.train()
    try:
        InsertionDeletion(steps=2)(scene_case())
        assert detector.model.training
        assert all(parameter.grad is None for parameter in detector.model.parameters())
    finally:
        detector.model.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in detector.model.state_dict().items())


def test_scores_come_in_the_order_of_the_images() -> None:
    canvas = Canvas.with_fill(scenes_detector(), scene_image())
    clean = canvas.clean
    places: list[list[int]] = []
    asked: list[int] = []

    def make(numbers: Tensor) -> Inputs:
        n = len(numbers)
        places.append(numbers.tolist())
        asked.extend(places[-1])
        return Inputs(clean.tensor.expand(n, -1, -1, -1), clean.geometries * n, clean.images * n)

    def number(output: Candidates) -> Tensor:
        return torch.tensor(float(asked.pop(0)))

    answers = ViewScorer(scenes_detector(), canvas, [number], batch_size=2).of_views(make, 5)
    assert answers.tolist() == [[0, 1, 2, 3, 4]]
    assert places == [[0, 1], [2, 3], [4]]


def test_no_detections_make_no_curves() -> None:
    nobody = Case(scenes_detector(), scene_image(), Detections([], [], []), torch.zeros(0, 160, 160))
    curves = InsertionDeletion(steps=3).curves(nobody)
    assert curves.insertion.shape == curves.deletion.shape == (0, 4)
