"""Pixel evidence: starts from one pass, joins it with draws as a prior is joined with data, never ends worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from black_boxes import SIZE, WHITE, sees, share
from faster_rcnns import photo, small_faster_rcnn

import detxai
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.best_pixels import VIEWS_PER_MAP, compare_best_pixels
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.shapley import Densities, join
from detxai.engine.masking.soft.image_masks import grid_for, masks_for, soft_masks
from detxai.engine.masking.soft.smoothing import smoothed
from detxai.geometry import box_gaussians, box_iou
from detxai.methods import pixel_evidence
from detxai.methods.evidence.candidate_maps import CANDIDATES, best_maps
from detxai.methods.evidence.start import Start
from detxai.metrics.inputs.roc_area import roc_area
from detxai.scenes import Kind, generate
from detxai.targets import BoxScoreTarget, ClassScoreTarget, ContrastTarget

BLACK = {"fill": "black", "progress": False}


def explain(detector: Detector, **settings: object) -> list[detxai.Explanation]:
    found = detector.detect(WHITE, 0.0)
    return detxai.PixelEvidence(**{**BLACK, **settings})(detector, WHITE, found)  # type: ignore[arg-type]


def test_with_one_pass_the_map_is_the_start() -> None:
    (found,) = explain(sees(share(20, 30, 8, 8)), max_passes=1)
    hill = box_gaussians(SIZE, torch.tensor([[20.0, 12, 52, 40]]))[0].numpy()
    np.testing.assert_allclose(found.values, hill / hill.sum(), rtol=1e-4, atol=1e-9)
    assert found.cost.forward_passes <= 4
    assert found.details["n_draws"] == 0
    assert found.standard_error is None


def test_the_start_of_a_network_is_half_layer_cam() -> None:
    detector, image = detxai.wrap(small_faster_rcnn(width=8)), photo()
    detections = detector.detect(image, 0.0)[:1]
    (found,) = detxai.PixelEvidence(max_passes=1)(detector, image, detections)
    (cam,) = detxai.LayerCAM()(detector, image, detections)
    canvas = Canvas.with_fill(detector, image)
    cam_on_canvas = canvas.from_image(torch.from_numpy(cam.values)[None]).clamp(min=0)
    boxes = canvas.geometry.boxes_to_input(detections.boxes)
    parts = [box_gaussians(canvas.size, boxes), cam_on_canvas]
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
    assert tried[found.details["kept"]] > max(tried.values()) - 0.07
    assert tried[found.details["kept"]] > tried["start"]


def test_maps_on_trial_show_and_hide_their_best_pixels() -> None:
    """The right map starts with the cause, a thirty-second of the image; the wrong one ends with it.

    On the three smallest shares the right one shows 1/4, 1/2 and all of the cause, and hides as much.
    """
    height, width = SIZE
    cause = np.zeros(SIZE)
    cause[16:24, 24 : 24 + width * height // 32 // 8] = 1
    detector = sees(lambda bright: float((bright * cause).sum() / cause.sum()))
    detections = detector.detect(WHITE, 0.0)
    canvas = Canvas.with_fills(detector, WHITE, ["black"])
    order = torch.arange(float(height * width)).view(1, *SIZE) / (height * width)
    right = order + 2 * torch.from_numpy(cause).float()
    wrong = order - 2 * torch.from_numpy(cause).float()
    hidden, whole = torch.zeros(1, 1), torch.ones(1)
    scorer = ViewScorer(detector, canvas, ClassScoreTarget.of(detections), batch_size=4)
    tried = compare_best_pixels(scorer, torch.stack([right, wrong]), hidden, whole)
    # the score turns until 1/32 is shown or hidden, or between 1/2 and the whole: the trapezoids in between
    assert tried.flatten().tolist() == pytest.approx([1 - 1 / 32, -(1 - 1 / 2)], abs=1e-3)
    assert VIEWS_PER_MAP == 14


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


@pytest.mark.parametrize(("calls", "kept"), [(45, "joined"), (20, None)], ids=["in time", "too early"])
def test_ctrl_c_keeps_the_map_so_far_where_that_was_asked_for(calls: int, kept: str | None) -> None:
    asked = 0
    see = share(20, 30, 8, 8)

    def interrupted(bright: np.ndarray) -> float:
        nonlocal asked
        asked += 1
        if asked == 4 * calls:
            raise KeyboardInterrupt
        return see(bright)

    detector = sees(interrupted)
    found = detector.detect(WHITE, 0.0)
    method = detxai.PixelEvidence(fill="black", progress=False, batch_size=4, keep_partial=True)
    if kept is None:
        with pytest.raises(KeyboardInterrupt):
            method(detector, WHITE, found)
        return
    (explanation,) = method(detector, WHITE, found)
    assert explanation.partial
    assert explanation.details["kept"] == kept
    assert np.unravel_index(explanation.values.argmax(), SIZE) != (0, 0)


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
        ({"gradient_weight": 1.0}, "gradient_weight"),
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


@pytest.mark.parametrize("kind", ["local", "context"])
@pytest.mark.parametrize("name", ["scenes-frcnn", "scenes-yolo"])
def test_a_planted_cause_is_found_in_the_box_and_far_from_it(name: str, kind: Kind) -> None:
    """Of pairs of a pixel of the cause and one that is not, nine in ten are in the right order."""
    if name == "scenes-yolo":
        pytest.importorskip("ultralytics")
    detector, scene = detxai.wrap(name), generate(501, kind)
    found = detector.detect(scene.image, 0.3)
    marked = int(scene.evidence.any((1, 2)).argmax())
    nearest = int(box_iou(torch.from_numpy(scene.boxes[marked]).float(), found.boxes).argmax())
    (explanation,) = detxai.PixelEvidence(max_passes=200)(detector, scene.image, found[nearest])
    area = roc_area(torch.from_numpy(explanation.values)[None], torch.from_numpy(scene.evidence[marked])[None])
    assert float(area) > 0.9


def test_boxes_of_one_image_share_the_masks() -> None:
    """Ten boxes take no more than seven tenths of what ten times one may take, and no more than was told."""
    parts = [share(4 * i, 5 * i, 6, 6) for i in range(10)]
    explained = explain(sees(*parts), max_passes=200)
    taken = {one.cost.forward_passes for one in explained}
    assert len(explained) == 10
    assert max(taken) <= detxai.PixelEvidence(max_passes=200, fill="black").most_passes(10) <= 0.7 * 10 * 200
    for n in (1, 2, 5, 20):
        for passes in (1, 79, 80, 120, 181, 300, 3000):
            assert detxai.PixelEvidence(max_passes=passes).most_passes(n) <= max(passes * n, n + 8)


@pytest.mark.parametrize("max_passes", [20, 100, 120, 250, 300])
def test_one_box_takes_no_more_than_it_may(max_passes: int) -> None:
    (found,) = explain(sees(share(20, 30, 8, 8)), max_passes=max_passes, fill=["black", "mean"])
    assert found.cost.forward_passes <= max_passes
    assert (found.details["n_draws"] > 0) == (max_passes >= 300)
    assert ("expected_correlation_of_masks" in found.details) == (max_passes >= 120)


def test_the_masks_are_kept_for_a_sure_box_unless_another_map_is_clearly_better() -> None:
    """By more than 0.15 of its score: of four boxes, the second and the fourth have such a map."""
    tried = torch.tensor([[0.1, 0.1, 0.1, 0.5], [0.2, 0.2, 0.2, 0.1], [0.15, 0.05, 0.17, 0.1], [0.1, 0.1, 0.23, 0.1]])
    assert best_maps(tried, torch.full((4,), 0.95)).tolist() == [2, 1, 2, 0]
    assert best_maps(tried, torch.full((4,), 0.8)).tolist() == [1, 1, 3, 0]
    assert best_maps(tried[:2], torch.ones(4)).tolist() == [1, 1, 1, 0]


def test_each_of_the_four_maps_is_what_its_formula_says() -> None:
    """From the parts themselves: the draws' mean, the start, the soft masks' slopes and the gradients under them."""
    detector, image = detxai.wrap("scenes-yolo"), generate(4, "local").image
    found = detector.detect(image, 0.5)[:1]
    method = detxai.PixelEvidence(progress=False)
    with detector.borrowed():
        canvas = Canvas.with_fills(detector, image, ("black", "mean"), 0)
        views = method._views(detector, canvas, found, lambda n: None, lambda views: None, reports_parts=False)
        shapes = Start.of(detector, image, canvas, found, ClassScoreTarget).shapes
    maps, errors = method._candidates(views, shapes)
    assert views.masks is not None
    assert views.gradients is not None
    total = views.known.whole - views.known.hidden.mean(1)
    gradients = views.gradients.values / views.gradients.values.sum() * total
    slopes = views.masks.values.clamp(min=0)
    slopes = slopes / slopes.sum() * total
    start = shapes * total
    draws = views.known.sums / views.known.n_draws
    n = int(views.known.n_draws)
    joined = (views.known.sums + start + 2.5 * slopes) / (n + 3.5)

    def sharpened(one: torch.Tensor) -> torch.Tensor:
        positive = one.clamp(min=0)
        both = positive**0.75 * gradients**0.25
        return torch.where(one < 0, one, both * positive.sum() / both.sum())

    mean = smoothed(gradients, views.cell) + gradients.mean() / 1000
    resolved = slopes * (gradients / mean).sqrt()
    resolved = 0.97 * resolved * slopes.sum() / resolved.sum() + 0.03 * start
    expected = [(start + gradients) / 2, sharpened(joined), resolved, sharpened(draws)]
    for found_map, one in zip(maps, expected, strict=True):
        torch.testing.assert_close(found_map, one, rtol=1e-3, atol=float(one.abs().max()) * 1e-4)
    assert errors.shape == maps.shape
    assert n > 1
    assert bool((errors[3] > 0).any())


def test_few_passes_have_no_draws_and_no_map_of_theirs() -> None:
    for passes, maps in ((300, 4), (200, 3)):
        (found,) = explain(sees(share(14, 22, 20, 24)), max_passes=passes)
        assert list(found.details["tried"]) == ["start", "joined", "masks", "draws"][:maps]
        assert found.cost.forward_passes <= passes


@pytest.mark.parametrize("kept", ["start", "joined", "masks", "draws"])
def test_a_black_box_gets_fine_masks_where_its_soft_masks_were_kept(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    best = torch.tensor([float(name == kept) for name in CANDIDATES])[:, None]
    monkeypatch.setattr(pixel_evidence, "compare_best_pixels", lambda *given: best)
    (found,) = explain(sees(share(14, 22, 20, 24)), tolerance=0.01)
    assert found.details["kept"] == kept
    without = 120 + 4 * VIEWS_PER_MAP + 2 + found.details["n_views"]
    assert found.cost.forward_passes == without + (50 if kept == "masks" else 0)


def test_a_network_is_traced_within_the_same_passes_unless_told_otherwise() -> None:
    detector, scene = detxai.wrap("scenes-frcnn"), generate(501, "local")
    found = detector.detect(scene.image, 0.3)[:1]
    maps = []
    for weight in (0.25, 0.0):
        method = detxai.PixelEvidence(tolerance=0.01, gradient_weight=weight, progress=False)
        (one,) = method(detector, scene.image, found)
        maps.append(one.values)
        assert one.details["gradients"] is (weight > 0)
        assert one.cost.forward_passes <= method.most_passes(1) <= 300
        total = one.details["clean_score"] - np.mean(one.details["hidden_scores"])
        assert one.values.sum(dtype=np.float64) == pytest.approx(total, rel=1e-3)
    assert not np.array_equal(maps[0], maps[1])


def test_the_trial_asks_what_the_masks_ask() -> None:
    """Where the image leaves no doubt it is the contrast with another class; with a target of the user's, that."""
    pytest.importorskip("ultralytics")
    detector, scene = detxai.wrap("scenes-yolo"), generate(501, "shortcut")
    found = detector.detect(scene.image, 0.3)[:1]
    for target, contrast in ((ClassScoreTarget, True), (BoxScoreTarget, False)):
        (one,) = detxai.PixelEvidence(max_passes=120, target=target)(detector, scene.image, found)
        assert one.details["contrast"] is contrast


def test_a_rival_tells_what_decides_between_two_classes() -> None:
    """The watermark decides the gem's class; the gem itself speaks for either."""
    pytest.importorskip("ultralytics")
    detector, scene = detxai.wrap("scenes-yolo"), generate(720, "shortcut")
    found = detector.detect(scene.image, 0.3)
    marked = int(scene.evidence.any((1, 2)).argmax())
    found = found[int(box_iou(torch.from_numpy(scene.boxes[marked]).float(), found.boxes).argmax())]
    canvas = Canvas.with_fills(detector, scene.image, ["black", "mean"])
    mark = torch.from_numpy(scene.evidence[marked])
    x1, y1, x2, y2 = found.boxes[0].round().int().tolist()
    ratios = []
    for target in (ClassScoreTarget, ContrastTarget):
        scorer = ViewScorer(detector, canvas, target.of(found), batch_size=16)
        masks = masks_for(canvas, canvas.geometry.boxes_to_input(found.boxes), 1)
        maps = soft_masks(scorer, masks, 150).values
        drawn = canvas.to_image(maps)[0]
        ratios.append(float(drawn[mark].mean() / drawn[y1:y2, x1:x2].mean()))
    assert ratios[1] > 1.5 * ratios[0] > 0, ratios


def test_a_small_box_gets_no_more_cells_than_its_masks_can_tell() -> None:
    """Two masks a cell: with more cells than masks the slopes are noise, which another seed does not repeat."""
    detector, image = detxai.wrap("scenes-frcnn"), generate(501, "local").image
    found = detector.detect(image, 0.3)[:1]
    canvas = Canvas.with_fills(detector, image, ["black", "mean"])
    scorer = ViewScorer(detector, canvas, ClassScoreTarget.of(found), batch_size=20)
    small = torch.tensor([[70.0, 70, 82, 82]])
    rows, columns = grid_for(canvas.size, small, 120)
    assert 40 <= rows * columns <= 64

    def agreement(n_masks: int | None) -> float:
        maps = [soft_masks(scorer, masks_for(canvas, small, seed, n_masks), 120).values.flatten() for seed in (0, 1)]
        return float(torch.corrcoef(torch.stack(maps))[0, 1])

    told, too_many = agreement(120), agreement(None)
    assert told > 0.9
    assert too_many < 0.75
