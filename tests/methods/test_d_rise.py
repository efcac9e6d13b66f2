"""D-RISE: closed forms through a real run, one map whatever the batch, and a run that can be stopped."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.estimating import estimate
from detxai.engine.masking.soft.lattice import Lattice
from detxai.engine.masking.soft.masks import RiseMasks
from detxai.geometry import box_iou
from detxai.scenes import generate, load_frcnn
from detxai.targets import BoxScoreTarget, SimilarityTarget, score_targets

SIZE = (48, 64)
WHITE = np.full((*SIZE, 3), 255, dtype=np.uint8)
Arrays = list[npt.NDArray[np.uint8]]


def patch(top: int = 20, left: int = 36, side: int = 10) -> npt.NDArray[np.float64]:
    weight = np.zeros(SIZE)
    weight[top : top + side, left : left + side] = 1 / side**2
    return weight


def sees(*weights: npt.NDArray[np.float64]) -> Callable[[Arrays], list[Detections]]:
    """A detector that gives one box a weight map, scored by the weighted brightness of the image."""
    boxes = [[5.0 + 20 * i, 5.0, 20.0 + 20 * i, 40.0] for i in range(len(weights))]

    def detect(images: Arrays) -> list[Detections]:
        bright = [image.mean(2) / 255 for image in images]
        return [Detections(boxes, [(one * w).sum() for w in weights], list(range(len(weights)))) for one in bright]

    return detect


def slope(masks: RiseMasks, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    vertical, horizontal = masks.kernels
    covariance = vertical @ torch.from_numpy(weight) @ horizontal
    return (covariance / (vertical.diagonal()[:, None] * horizontal.diagonal())).numpy()


def test_detectors_with_a_known_answer() -> None:
    spread = np.random.default_rng(0).random(SIZE)
    weights = patch(), spread / spread.sum()
    detector = detxai.wrap(sees(*weights))
    detections = detector.detect(WHITE)
    found = detxai.DRISE(n_masks=600, grid=(4, 5))(detector, WHITE, detections)
    for explanation, weight in zip(found, weights, strict=True):
        truth = slope(RiseMasks(SIZE, (4, 5)), weight)
        assert explanation.standard_error is not None
        error = np.abs(explanation.values - truth)
        assert error.max() < 0.03 * truth.max()
        assert (error <= 4.5 * explanation.standard_error + 0.01 * truth.max()).all()
    assert np.unravel_index(found[0].values.argmax(), SIZE) == pytest.approx((25, 41), abs=4)
    assert found[0].cost.forward_passes == 601
    assert found[0].details["n_masks"] == 600
    assert found[0].details["expected_correlation"] > 0.99


def test_the_image_is_larger_than_the_input_and_the_map_lies_where_the_patch_is() -> None:
    """A torchvision detector resizes: the bundled one looks at its scene at full and double size."""
    detector = detxai.wrap(load_frcnn())
    scene = generate(seed=501, kind="local").image
    peaks = []
    for factor in (1, 2):
        image = np.kron(scene, np.ones((factor, factor, 1), dtype=np.uint8))
        found = detector.detect(image, 0.3)[:1]
        (explanation,) = detxai.DRISE(n_masks=80)(detector, image, found)
        assert explanation.values.shape == image.shape[:2]
        peaks.append(np.array(np.unravel_index(explanation.values.argmax(), image.shape[:2])) / factor)
    assert np.abs(peaks[0] - peaks[1]).max() <= 8


@pytest.fixture(scope="module")
def scenes_detector() -> Detector:
    return detxai.wrap(load_frcnn())


def test_one_map_for_every_batch_size() -> None:
    detector, image = detxai.wrap(small_faster_rcnn(width=8)), photo()
    detections = detector.detect(image, 0.0)[:5]
    maps = [
        np.stack([e.values for e in detxai.DRISE(n_masks=70, batch_size=size)(detector, image, detections)])
        for size in (1, 7, 64)
    ]
    for other in maps[1:]:
        assert np.abs(other - maps[0]).max() < 1e-6


def _half(first: int) -> Tensor:
    torch.set_num_threads(1)
    detector, image = detxai.wrap(sees(patch(), patch(5, 5))), WHITE
    detections, canvas = detector.detect(image), Canvas.with_fill(detector, image)
    targets = SimilarityTarget.of(detections)
    masks = RiseMasks(canvas.size, (4, 5), seed=11)
    return ViewScorer(detector, canvas, targets).under_masks(masks, range(first, first + 50))


@pytest.mark.slow
def test_one_map_for_two_processes() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        halves = [part.numpy() for part in pool.map(_half, [0, 50])]
    lattice = Lattice(RiseMasks(SIZE, (4, 5), seed=11))
    shared = lattice.to_pixels(estimate(torch.from_numpy(np.concatenate(halves, 1)), lattice).values, SIZE)
    detector = detxai.wrap(sees(patch(), patch(5, 5)))
    alone = detxai.DRISE(n_masks=100, grid=(4, 5), seed=11)(detector, WHITE, detector.detect(WHITE))
    assert np.abs(shared.numpy() - np.stack([e.values for e in alone])).max() < 1e-6


def test_targets_do_not_disturb_each_other(scenes_detector: Detector) -> None:
    image = next(
        image for seed in range(510, 540)
        if len(scenes_detector.detect(image := generate(seed=seed, kind="local").image, 0.3)) > 1
    )  # fmt: skip
    detections = scenes_detector.detect(image, 0.3)
    together = detxai.DRISE(n_masks=64, grid=8)(scenes_detector, image, detections)
    alone = detxai.DRISE(n_masks=64, grid=8)(scenes_detector, image, detections[1])[0]
    assert np.abs(together[1].values - alone.values).max() < 1e-6
    assert not np.allclose(together[0].values, alone.values, atol=1e-3)


def test_class_vectors_are_those_of_the_candidate_behind_the_box(scenes_detector: Detector) -> None:
    image = generate(seed=501, kind="local").image
    detections = scenes_detector.detect(image, 0.3)
    with torch.no_grad():
        candidates = scenes_detector.candidates(image)
    for place, target in enumerate(SimilarityTarget.seen_in(candidates, detections)):
        column = int((candidates.labels == detections.labels[place]).nonzero())
        best, best_score = 0, -1.0
        for j in range(candidates.boxes.shape[1]):
            iou = float(box_iou(detections.boxes[place], candidates.boxes[0, j, column]))
            score = iou * float(candidates.class_scores[0, j, column])
            if score > best_score:
                best, best_score = j, score
        assert target.class_scores == pytest.approx(candidates.class_scores[0, best].tolist())
        assert float(score_targets([target], candidates)) > 0.8 * float(detections.scores[place])
    assert SimilarityTarget.seen_in(candidates, detections[[]]) == []


def test_it_finds_the_planted_cause(scenes_detector: Detector) -> None:
    """On held-out scenes whose cause is a small mark within the object: well above chance, for each object."""
    ratios = []
    for seed in (501, 503, 505):
        scene = generate(seed=seed, kind="local")
        detections = scenes_detector.detect(scene.image, 0.3)
        for explanation in detxai.DRISE(n_masks=120)(scenes_detector, scene.image, detections):
            assert explanation.detection is not None
            ious = box_iou(explanation.detection.boxes, torch.as_tensor(np.asarray(scene.boxes), dtype=torch.float32))
            evidence = np.asarray(scene.evidence[int(ious.argmax())])
            if float(ious.max()) > 0.5 and evidence.any():
                ratios.append(explanation.heatmap[evidence].mean() / explanation.heatmap.mean())
    assert len(ratios) >= 3
    assert np.median(ratios) > 5
    assert min(ratios) > 1


def test_an_object_that_is_hardly_found_still_gets_a_map(scenes_detector: Detector) -> None:
    """Candidates have no threshold, so weights do not collapse to zero as those of detections do."""
    image = (generate(seed=503, kind="local").image * 0.4 + 70).astype(np.uint8)
    faint = scenes_detector.detect(image, 0.05)
    faint = faint[faint.scores < 0.3][:1]
    assert len(faint) == 1, "this scene has no faint detection any more: choose another"
    box_only = detxai.wrap(lambda images: [scenes_detector.detect(one, 0.9) for one in images])
    (blind,) = detxai.DRISE(n_masks=16, grid=7)(box_only, image, faint)
    assert blind.details["clean_score"] == 0
    (explanation,) = detxai.DRISE(n_masks=150, grid=7)(scenes_detector, image, faint)
    assert explanation.details["clean_score"] > 0.05
    assert explanation.details["expected_correlation"] > 0.3


def test_auto_stops_where_another_seed_would_agree() -> None:
    detector = detxai.wrap(sees(patch(), patch(5, 5)))
    detections = detector.detect(WHITE)
    method = detxai.DRISE(n_masks="auto", tolerance=0.02, grid=(4, 5))
    runs = [detxai.DRISE(n_masks="auto", tolerance=0.02, grid=(4, 5), seed=seed) for seed in (0, 1)]
    maps = [run(detector, WHITE, detections) for run in runs]
    for first, second in zip(*maps, strict=True):
        assert first.details["n_masks"] < method.most_masks
        assert first.details["expected_correlation"] >= 0.98
        assert np.corrcoef(first.values.ravel(), second.values.ravel())[0, 1] > 0.96
    hard = detxai.DRISE(n_masks="auto", tolerance=1e-9, most_masks=300, grid=(4, 5), variance_reduction="none")
    assert hard(detector, WHITE, detections)[0].details["n_masks"] == 300


def test_a_smaller_tolerance_takes_more_masks() -> None:
    def threshold(images: Arrays) -> list[Detections]:
        shown = [(image.mean(2) / 255 * patch()).sum() for image in images]
        return [Detections([[30.0, 15.0, 52.0, 36.0]], [float(s > 0.6)], [0]) for s in shown]

    detector = detxai.wrap(threshold)
    detections = detector.detect(WHITE)
    counts = [
        detxai.DRISE(n_masks="auto", tolerance=t, grid=(4, 5))(detector, WHITE, detections)[0].details["n_masks"]
        for t in (0.2, 0.02)
    ]
    assert counts[0] < counts[1]


class Failing:
    """A detector that does its work until call number ``calls``, and then raises."""

    def __init__(self, error: BaseException, calls: int, most: int = 10**9) -> None:
        self.error, self.calls, self.most, self.sizes = error, calls, most, list[int]()

    def __call__(self, images: Arrays) -> list[Detections]:
        if len(images) > self.most or len(self.sizes) == self.calls:
            raise self.error
        self.sizes.append(len(images))
        return sees(patch())(images)


def test_ctrl_c_gives_what_there_is_where_it_was_asked_for() -> None:
    function = Failing(KeyboardInterrupt(), calls=8)
    detector = detxai.wrap(function)
    detections = sees(patch())([WHITE])[0]
    (explanation,) = detxai.DRISE(n_masks=1000, grid=(4, 5), batch_size=8, keep_partial=True)(
        detector, WHITE, detections
    )
    assert explanation.partial
    assert explanation.record()["partial"] is True
    assert explanation.details["n_masks"] == 56  # the first call was the whole image
    whole = detxai.DRISE(n_masks=56, grid=(4, 5))(detxai.wrap(sees(patch())), WHITE, detections)[0]
    assert not whole.partial
    assert np.array_equal(whole.values, explanation.values)


@pytest.mark.parametrize(("keep_partial", "calls"), [(False, 100), (True, 3)], ids=["not asked for", "too early"])
def test_ctrl_c_stops(keep_partial: bool, calls: int) -> None:
    detections = sees(patch())([WHITE])[0]
    with pytest.raises(KeyboardInterrupt):
        detxai.DRISE(batch_size=4, keep_partial=keep_partial)(
            detxai.wrap(Failing(KeyboardInterrupt(), calls=calls)), WHITE, detections
        )


def test_running_out_of_memory_halves_the_batch() -> None:
    function = Failing(torch.OutOfMemoryError("out of memory"), calls=-1, most=3)
    detections = sees(patch())([WHITE])[0]
    (found,) = detxai.DRISE(n_masks=64, grid=(4, 5), batch_size=16)(detxai.wrap(function), WHITE, detections)
    assert max(function.sizes) <= 3
    (plain,) = detxai.DRISE(n_masks=64, grid=(4, 5))(detxai.wrap(sees(patch())), WHITE, detections)
    assert np.abs(found.values - plain.values).max() < 1e-6


def test_other_questions_normalisations_and_fills() -> None:
    detector = detxai.wrap(sees(patch()))
    detections = detector.detect(WHITE)
    settings: list[dict[str, Any]] = [
        {"target": BoxScoreTarget}, {"normalisation": "sum"}, {"normalisation": "density"}, {"fill": (0.0, 0.0, 0.0)},
        {"precision": "bf16"}, {"channels_last": True}, {"p": 0.7}, {"variance_reduction": "none"},
        {"variance_reduction": "regression"},
    ]  # fmt: skip
    (plain,) = detxai.DRISE(n_masks=400, grid=(4, 5))(detector, WHITE, detections)
    for setting in settings:
        (found,) = detxai.DRISE(n_masks=400, grid=(4, 5), **setting)(detector, WHITE, detections)
        assert np.corrcoef(found.values.ravel(), plain.values.ravel())[0, 1] > 0.85, setting
    (mean,) = detxai.DRISE(n_masks=64, fill="mean")(detector, WHITE, detections)  # white hidden by white: nothing goes
    assert np.abs(mean.values).max() < 1e-6


def test_nothing_found_under_any_mask_is_said(caplog: pytest.LogCaptureFixture) -> None:
    detector = detxai.wrap(lambda images: [Detections([], [], []) for _ in images])
    (found,) = detxai.DRISE(n_masks=32)(detector, WHITE, Detections([[1.0, 1.0, 9.0, 9.0]], [0.9], [0], ["cat"]))
    assert not found.values.any()
    assert not found.heatmap.any()
    assert "cat scores 0 under every mask" in caplog.text
    assert detxai.DRISE()(detector, WHITE, Detections([], [], [])) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_masks": 3}, "n_masks must be"),
        ({"n_masks": "all"}, "n_masks must be"),
        ({"n_masks": 100.0}, "n_masks must be"),
        ({"seed": 0.5}, "seed must be"),
        ({"tolerance": 0}, "tolerance must lie"),
        ({"most_masks": 1}, "most_masks must be"),
        ({"grid": 0}, "grid must be"),
        ({"grid": (3, 4, 5)}, "grid must be"),
        ({"p": 1}, "p must lie"),
        ({"target": 3}, "target must be callable"),
        ({"normalisation": "minmax"}, "normalisation must be"),
        ({"variance_reduction": "magic"}, "variance_reduction must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"precision": "int4"}, "precision must be"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        detxai.DRISE(**settings)


def test_the_grid_follows_the_smallest_box() -> None:
    detector = detxai.wrap(sees(patch()))
    grids = []
    for side in (1.0, 4.0, 10.0, 40.0):
        boxes = Detections([[0.0, 0.0, side, side], [0.0, 0.0, 45.0, 45.0]], [0.9, 0.9], [0, 0])
        grids.append(detxai.DRISE(n_masks=16)(detector, WHITE, boxes)[0].details["grid"])
    assert grids == [[24, 32], [24, 32], [10, 13], [5, 7]]


def test_the_record_and_the_file_hold_the_error_bars(tmp_path: Any) -> None:
    detector = detxai.wrap(sees(patch()))
    (found,) = detxai.explain(detector, WHITE, "d_rise", n_masks=32, seed=5)
    assert found.standard_error is not None
    path = found.save_map(tmp_path / "map.npz")
    with np.load(path) as arrays:
        assert np.array_equal(arrays["standard_error"], found.standard_error)
    record = found.record()
    assert record["settings"]["seed"] == 5
    assert record["details"]["n_masks"] == 32
    assert record["partial"] is False


@pytest.mark.slow
def test_memory_does_not_grow_with_the_masks() -> None:
    """Peak memory of a process of its own: sums and scores are kept, masks are not."""
    script = """
import resource, sys
import numpy as np, torch
import detxai
torch.set_num_threads(1)
white = np.full((160, 160, 3), 255, dtype=np.uint8)
def detect(images):
    boxes, labels = [[9, 9, 60, 60]] * 5, [0] * 5
    return [{"boxes": boxes, "scores": [float(i[::8, ::8].mean()) / 255] * 5, "labels": labels} for i in images]
detector = detxai.wrap(detect)
detxai.DRISE(n_masks=int(sys.argv[1]), grid=10)(detector, white, detector.detect(white))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    few, many = (
        int(subprocess.run([sys.executable, "-c", script, n], capture_output=True, text=True, check=True).stdout)
        for n in ("500", "20000")
    )
    assert many < 1.02 * few
