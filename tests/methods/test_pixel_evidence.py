"""Pixel evidence: starts from one pass, joins it with draws as a prior is joined with data, never ends worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from black_boxes import SIZE, WHITE, sees, share
from faster_rcnns import photo, small_faster_rcnn

import detxai
from detxai.adapters.adapter import Adapter
from detxai.detections import Detections
from detxai.engine.masking.best_pixels import VIEWS_A_MAP, try_best_pixels
from detxai.engine.masking.shapley import Densities
from detxai.engine.perturbing import Canvas
from detxai.geometry import box_iou
from detxai.methods.pixel_evidence import hills, join
from detxai.metrics.roc_area import roc_area
from detxai.scenes import generate
from detxai.targets import ClassScoreTarget

BLACK = {"fill": "black", "progress": False}


def explain(detector: Adapter, **settings: object) -> list[detxai.Explanation]:
    found = detector.detect(WHITE, 0.0)
    return detxai.PixelEvidence(**{**BLACK, **settings})(detector, WHITE, found)  # type: ignore[arg-type]


def test_with_one_pass_the_map_is_the_start() -> None:
    (found,) = explain(sees(share(20, 30, 8, 8)), max_passes=1)
    hill = hills(SIZE, torch.tensor([[20.0, 12, 52, 40]]))[0].numpy()
    np.testing.assert_allclose(found.values, hill / hill.sum(), rtol=1e-4, atol=1e-9)
    assert found.cost.forward_passes <= 4
    assert found.details["n_draws"] == 0
    assert found.standard_error is None


def test_the_start_of_a_network_is_half_layer_cam() -> None:
    detector, image = detxai.wrap(small_faster_rcnn(width=8)), photo()
    detections = detector.detect(image, 0.0)[:1]
    (found,) = detxai.PixelEvidence(max_passes=1)(detector, image, detections)
    (cam,) = detxai.LayerCAM()(detector, image, detections)
    canvas = Canvas.of(detector, image)
    cam_on_canvas = canvas.from_image(torch.from_numpy(cam.values)[None]).clamp(min=0)
    boxes = canvas.geometry.boxes_to_input(detections.boxes)
    parts = [hills(canvas.size, boxes), cam_on_canvas]
    expected = torch.stack([part / part.sum() for part in parts]).mean(0)[0]
    shown = canvas.to_image(expected[None])[0].numpy()
    assert found.details["start"] == ["box_centre", "layer_cam"]
    assert np.corrcoef(found.values.ravel(), shown.ravel())[0, 1] > 0.99999


def test_joining_is_a_mean_in_which_the_start_counts_as_some_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    draws, start = torch.rand(3, 4, 5, generator=generator), torch.rand(2, 4, 5, generator=generator)
    known = Densities.empty((4, 5), torch.zeros(2, 1), torch.ones(2))
    known.add(torch.zeros(3, dtype=torch.long), draws, torch.ones(3, dtype=torch.long))
    values, errors = join(known, [(torch.full((2,), 1.0), start), (torch.full((2,), 1.5), start)])
    torch.testing.assert_close(values[0], (draws.sum(0) + 2.5 * start[0]) / 5.5)
    torch.testing.assert_close(errors[0], draws.std(0) / 3**0.5 * 3 / 5.5)
    torch.testing.assert_close(values[1], start[1])  # no draws: the start, without an error to tell
    assert not errors[1].any()


def test_a_start_that_points_elsewhere_is_overruled() -> None:
    """The cause lies far outside the box, where the hill over it has nothing."""
    (found,) = explain(sees(share(0, 0, 6, 6), box=(36, 24, 60, 44)), max_passes=300)
    assert found.details["kept"] != "start"
    peak = np.unravel_index(found.values.argmax(), SIZE)
    assert max(peak) < 16
    tried = found.details["tried"]
    assert tried[found.details["kept"]] == max(tried.values()) > tried["start"]


def test_maps_on_trial_show_and_hide_their_best_pixels() -> None:
    detector = sees(share(20, 30, 8, 8))
    detections = detector.detect(WHITE, 0.0)
    canvas = Canvas.with_fills(detector, WHITE, ["black"])
    right, wrong = torch.zeros(1, *SIZE), torch.zeros(1, *SIZE)
    right[0, 20:28, 30:38] = torch.arange(64.0).view(8, 8) + 1
    wrong[0, :8, :8] = torch.arange(64.0).view(8, 8) + 1
    box = torch.tensor([[24.0, 20, 32, 28]])  # 64 pixels: 16, 32 and 64 of the best are tried
    tried = try_best_pixels(
        detector, canvas, ClassScoreTarget.of(detections), torch.stack([right, wrong]), box, {"batch_size": 4}
    )
    # shown alone they bring 1/4, 1/2, 1; hidden alone they leave 3/4, 1/2, 0
    assert tried.flatten().tolist() == pytest.approx([(1.75 - 1.25) / 3, -1.0])
    assert VIEWS_A_MAP == 6


def test_what_keeps_a_box_and_what_loses_it() -> None:
    """Both halves of a pair are needed: either one's removal loses the box, only both together keep it."""

    def both(bright: np.ndarray) -> float:
        return float(bright[16:22, 24:30].mean() * bright[30:36, 42:48].mean())

    (found,) = explain(sees(both), max_passes=400, decisive=True)
    sufficient, necessary = found.details["sufficient"], found.details["necessary"]
    assert sufficient["score"] >= 0.5 > necessary["score"]
    assert 0 < necessary["area"] < sufficient["area"] < 0.25
    covered = np.zeros(SIZE, dtype=bool)
    for x1, y1, x2, y2 in sufficient["cells"]:
        covered[round(y1) : round(y2), round(x1) : round(x2)] = True
    assert covered[16:22, 24:30].mean() > 0.5
    assert covered[30:36, 42:48].mean() > 0.5


def test_the_budget_holds_and_the_seed_decides() -> None:
    detector = sees(share(20, 30, 8, 8), share(14, 22, 10, 4))
    first, again, other = (explain(detector, max_passes=150, seed=seed) for seed in (3, 3, 4))
    assert first[0].cost.forward_passes <= 300
    for one, same, another in zip(first, again, other):
        assert np.array_equal(one.values, same.values)
        assert not np.array_equal(one.values, another.values)


def test_several_fills_are_one_average() -> None:
    """On a background of its mean colour a white image shows no change at all, so nothing speaks for the box."""
    detector = sees(share(20, 30, 8, 8))
    (mean,) = explain(detector, fill="mean")
    assert not mean.values.any()
    (both,) = explain(detector, fill=["black", "mean"])
    assert float(both.values.sum(dtype=np.float64)) == pytest.approx(0.5, abs=1e-4)


def test_a_target_without_gradients_has_a_start_without_layer_cam() -> None:
    def coldest(box: object, label: int) -> object:
        return lambda candidates: candidates.class_scores.detach().amax()

    detector, image = detxai.wrap(small_faster_rcnn(width=8)), photo()
    detections = detector.detect(image, 0.0)[:1]
    (found,) = detxai.PixelEvidence(max_passes=1, target=coldest)(detector, image, detections)  # type: ignore[arg-type]
    assert found.details["start"] == ["box_centre"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_passes": 0}, "max_passes"),
        ({"tolerance": 0}, "tolerance"),
        ({"start_draws": -1.0}, "start_draws"),
        ({"start_draws": float("nan")}, "start_draws"),
        ({"ignore_below": 1.0}, "ignore_below"),
        ({"refine": True}, "refine"),
        ({"fill": "white"}, "fill"),
        ({"seed": "a"}, "seed"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        detxai.PixelEvidence(**settings)  # type: ignore[arg-type]


def test_no_boxes_no_maps() -> None:
    assert detxai.PixelEvidence()(sees(share(0, 0, 8, 8)), WHITE, Detections([], [], [])) == []


@pytest.mark.parametrize("name", ["scenes-frcnn", "scenes-yolo"])
def test_a_planted_mark_is_found(name: str) -> None:
    """Of pairs of a pixel of the mark and one that is not, nine in ten are in the right order."""
    if name == "scenes-yolo":
        pytest.importorskip("ultralytics")
    detector, scene = detxai.wrap(name), generate(501, "local")
    found = detector.detect(scene.image, 0.3)
    marked = int(scene.evidence.any((1, 2)).argmax())
    nearest = int(box_iou(torch.from_numpy(scene.boxes[marked]).float(), found.boxes).argmax())
    (explanation,) = detxai.PixelEvidence(max_passes=150)(detector, scene.image, found[nearest])
    area = roc_area(torch.from_numpy(explanation.values)[None], torch.from_numpy(scene.evidence[marked])[None])
    assert float(area) > 0.9
