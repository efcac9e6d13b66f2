"""Soft masks traced back: the slopes are those of autograd by the mask itself, and there are none without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from black_boxes import WHITE, sees, share
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.sliced import Slicing
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.estimating import LEAST_MEAN, Estimate, resolved_by, shared_out, sharpened_by
from detxai.engine.masking.soft.image_masks import masks_for, soft_masks
from detxai.engine.masking.soft.traced import trace_masks
from detxai.geometry import box_iou
from detxai.images import Image
from detxai.metrics.inputs.roc_area import roc_area
from detxai.scenes import generate
from detxai.targets import ClassScoreTarget, ContrastTarget, score_targets

N_MASKS = 5


def two_stage() -> tuple[Detector, Image]:
    return detxai.wrap(small_faster_rcnn(width=8)), photo()


def padded_one_stage() -> tuple[Detector, Image]:
    """The image is wide, so the model's input has grey bars above and below."""
    pytest.importorskip("ultralytics")
    return detxai.wrap("scenes-yolo"), generate(501, "local").image[30:130]


def scorer_of(detector: Detector, image: Image, batch_size: int | None = None) -> ViewScorer:
    found = detector.detect(image, 0.0)[:2]
    canvas = Canvas.with_fills(detector, image, ["black", "mean"])
    return ViewScorer(detector, canvas, ClassScoreTarget.of(found), batch_size=batch_size)


def gaussian_mean(values: np.ndarray, deviations: tuple[float, float]) -> np.ndarray:
    """With OpenCV: the sum over the neighbours within the map, over how much of the Gaussian lies there."""
    down, across = deviations

    def blurred(values: np.ndarray) -> np.ndarray:
        wide = values.astype(np.float64)
        return cv2.GaussianBlur(wide, (0, 0), sigmaX=across, sigmaY=down, borderType=cv2.BORDER_CONSTANT)

    return blurred(values) / blurred(np.ones_like(values))


def by_hand(scorer: ViewScorer, masks: Callable[[Tensor], Tensor]) -> tuple[Tensor, np.ndarray]:
    """Scores (T, n) and smoothed slopes (T, n, h, w), mask by mask: autograd asks for the mask, OpenCV smooths."""
    canvas, detector = scorer.canvas, scorer.detector
    (top, left), (height, width) = canvas.geometry.offset, canvas.size
    scores: list[list[float]] = []
    slopes: list[list[np.ndarray]] = []
    for target in scorer.targets:
        scores.append([])
        slopes.append([])
        for number in range(N_MASKS):
            mask = masks(torch.tensor([number])).requires_grad_()
            whole = torch.nn.functional.pad(
                mask[:, None],
                (
                    left,
                    canvas.clean.tensor.shape[3] - left - width,
                    top,
                    canvas.clean.tensor.shape[2] - top - height,
                ),
                value=1.0,
            )
            view = whole * canvas.clean.tensor + (1 - whole) * canvas.filling[1:]
            with detector.borrowed():
                score = score_targets([target], detector.candidates(canvas.clean.with_tensor(view)))[0, 0]
            (slope,) = torch.autograd.grad(score, mask)
            scores[-1].append(float(score.detach()))
            slopes[-1].append(gaussian_mean(slope[0].abs().numpy(), (1.5, 1.5)))
    return torch.tensor(scores), np.array(slopes)


@pytest.mark.parametrize("made", [two_stage, padded_one_stage])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_slopes_are_those_of_autograd_by_the_mask(
    made: Callable[[], tuple[Detector, Image]], batch_size: int | None
) -> None:
    scorer = scorer_of(*made(), batch_size)
    masks = masks_for(scorer.canvas, torch.tensor([[20.0, 20, 70, 80]]), seed=4)
    scores, slopes = by_hand(scorer, masks)
    traced = trace_masks(scorer, masks, N_MASKS)
    assert traced is not None
    torch.testing.assert_close(traced.scores, scores, rtol=1e-4, atol=1e-5)
    mean, error = slopes.mean(1), slopes.std(1, ddof=1) / N_MASKS**0.5
    assert mean.max() > 1e-5
    np.testing.assert_allclose(traced.slopes.values, mean, rtol=1e-3, atol=1e-3 * mean.max())
    np.testing.assert_allclose(traced.slopes.standard_error, error, rtol=1e-2, atol=2e-3 * mean.max())


def test_masks_already_scored_are_not_asked_again() -> None:
    """The same maps as from scores of all masks, in as many fewer views."""
    asked: list[int] = []
    detector, image = two_stage()
    scorer = scorer_of(detector, image, 4)
    masks = masks_for(scorer.canvas, torch.tensor([[20.0, 20, 70, 80]]), seed=0)
    traced = trace_masks(scorer, masks, 12)
    assert traced is not None
    counted = ViewScorer(detector, scorer.canvas, scorer.targets, batch_size=4, on_views=asked.append)
    some, every = soft_masks(counted, masks, 60, traced.scores), soft_masks(scorer, masks, 60)
    assert sum(asked) == 48
    torch.testing.assert_close(some.values, every.values, rtol=1e-3, atol=1e-3 * float(every.values.abs().max()))


def without_gradients(box: Any, label: int) -> Any:
    return lambda candidates: candidates.class_scores.detach().amax((1, 2))


def made_in_inference_mode() -> Detector:
    with torch.inference_mode():
        return detxai.wrap(small_faster_rcnn(width=8))


@pytest.mark.parametrize(
    "detector",
    [
        lambda: sees(share(20, 30, 8, 8)),
        lambda: detxai.wrap(small_faster_rcnn(width=8), slices=Slicing(2, 2, 0.2)),
        made_in_inference_mode,
    ],
    ids=["black box", "sliced", "inference mode"],
)
def test_without_gradients_nothing_is_traced_and_the_map_is_as_it_was(detector: Callable[[], Detector]) -> None:
    made = detector()
    image = WHITE if made.network is None else photo()
    found = made.detect(image, 0.0)[:1]
    canvas = Canvas.with_fills(made, image, ["black", "mean"])
    scorer = ViewScorer(made, canvas, ClassScoreTarget.of(found))
    assert trace_masks(scorer, masks_for(canvas, canvas.geometry.boxes_to_input(found.boxes), 0), 4) is None
    (explained,) = detxai.PixelEvidence(max_passes=150, progress=False)(made, image, found)
    assert explained.details["gradients"] is False


def test_a_target_without_gradients_is_not_traced() -> None:
    detector, image = two_stage()
    found = detector.detect(image, 0.0)[:1]
    canvas = Canvas.with_fills(detector, image, ["mean"])
    scorer = ViewScorer(detector, canvas, [without_gradients(found.boxes[0], 1)])
    assert trace_masks(scorer, masks_for(canvas, canvas.geometry.boxes_to_input(found.boxes), 0), 4) is None


def test_a_map_is_sharpened_where_the_fine_one_is_high() -> None:
    """``sqrt(P F)`` is 2, 0, 0: scaled to P's sum, 8. What is negative stays as it is."""
    coarse = Estimate(torch.tensor([[[4.0, 4, 0, -1]]]), torch.tensor([[[5.0, 0, 9, 7]]]))
    fine = Estimate(torch.tensor([[[1.0, 0, 4, 9]]]), torch.tensor([[[0.0, 1, 0, 0]]]))
    sharpened = sharpened_by(coarse, fine, 0.5)
    assert sharpened.values.flatten().tolist() == [8, 0, 0, -1]
    # 4 times sqrt(9 * 1) - 2, sqrt(4 * 1) - 0, sqrt(9 * 4) - 0
    assert sharpened.standard_error.flatten().tolist() == [4, 8, 24, 7]
    torch.testing.assert_close(sharpened_by(coarse, fine, 0.0).values, coarse.values)
    nothing = Estimate(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    torch.testing.assert_close(sharpened_by(coarse, nothing, 0.25).values, coarse.values)


def test_a_cell_keeps_its_place_whatever_the_fine_map_has_there() -> None:
    """Two like cells, far apart: the fine map is a hundred times as high in one, and alternates in both alike."""
    coarse = torch.zeros(1, 20, 200)
    coarse[..., :100], coarse[..., 100:] = 1.0, 3.0
    stripes = torch.tensor([1.0, 9.0]).repeat(100)
    fine = torch.cat([100 * stripes[:100], stripes[100:]]).expand(1, 20, 200)
    nothing = torch.zeros_like(coarse)
    resolved = resolved_by(Estimate(coarse, nothing), Estimate(fine, nothing), (4, 8), 0.5).values
    assert float(resolved.sum()) == pytest.approx(float(coarse.sum()), rel=1e-4)
    left, right = resolved[..., 10:60], resolved[..., 160:190]  # away from where both meet, and from the border
    assert float(right.mean() / left.mean()) == pytest.approx(3, rel=0.05)
    for part in (left, right):
        torch.testing.assert_close(
            part[..., 1::2] / part[..., ::2], torch.full_like(part[..., ::2], 3.0), rtol=0.01, atol=0
        )


def test_a_coarse_map_is_resolved_as_its_formula_says() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse, fine, error = torch.rand(3, 2, 30, 40, generator=generator).unbind(0)
    coarse = coarse - 0.2
    resolved = resolved_by(Estimate(coarse, error), Estimate(fine, error), (3, 5), 0.7)
    maps = (resolved.values, resolved.standard_error, coarse, fine, error)
    for values, errors, p, f, e in zip(*(one.numpy() for one in maps), strict=True):
        mean = gaussian_mean(f, (3, 5)) + LEAST_MEAN * f.mean()
        both = p.clip(0) * (f / mean) ** 0.7
        scale = p.clip(0).sum() / both.sum()
        np.testing.assert_allclose(values, np.where(p < 0, p, both * scale), rtol=1e-3)
        first = (p.clip(0) + e) * (f / mean) ** 0.7 - both
        second = p.clip(0) * ((f + e) / mean) ** 0.7 - both
        np.testing.assert_allclose(errors, np.where(p < 0, e, np.hypot(first, second) * scale), rtol=1e-3, atol=1e-5)


def test_nothing_fine_leaves_a_coarse_map_as_it_is() -> None:
    coarse = Estimate(torch.rand(1, 8, 9, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 8, 9))
    nothing = Estimate(torch.zeros(1, 8, 9), torch.zeros(1, 8, 9))
    torch.testing.assert_close(resolved_by(coarse, nothing, (2, 2), 0.5).values, coarse.values)


def test_a_very_flat_image_is_traced_too() -> None:
    """Three pixels high: less than the smoothing reads."""
    detector, _ = padded_one_stage()
    image = generate(501, "local").image
    found = detector.detect(image, 0.3)[:1]
    canvas = Canvas.with_fills(detector, image[:3], ["mean"])
    scorer = ViewScorer(detector, canvas, ClassScoreTarget.of(found))
    traced = trace_masks(scorer, masks_for(canvas, torch.tensor([[20.0, 0, 70, 3]]), 0), 4)
    assert traced is not None
    assert traced.slopes.values.shape == (1, *canvas.size)
    assert bool(traced.slopes.values.isfinite().all())


def test_a_total_is_shared_out_over_what_is_positive() -> None:
    maps = torch.tensor([[[1.0, 3, -5]], [[0.0, 0, -1]]])
    total, otherwise = torch.tensor([8.0, 6.0]).view(2, 1, 1), torch.full((2, 1, 3), 2.0)
    values, errors = shared_out(Estimate(maps, torch.ones_like(maps)), total, otherwise)
    assert values[:, 0].tolist() == [[2, 6, 0], [2, 2, 2]]
    assert errors[:, 0].tolist() == [[2, 2, 2], [0, 0, 0]]


@pytest.mark.parametrize("name", ["scenes-frcnn", "scenes-yolo"])
def test_gradients_find_the_mark_within_a_cell_of_the_masks(name: str) -> None:
    """Six marked objects: joined with gradients, soft masks order pixels better than alone, and peak on the mark."""
    if name == "scenes-yolo":
        pytest.importorskip("ultralytics")
    detector, areas, on_mark = detxai.wrap(name), [], 0
    for seed in range(700, 706):
        scene = generate(seed, "local")
        found = detector.detect(scene.image, 0.3)
        marked = int(scene.evidence.any((1, 2)).argmax())
        found = found[int(box_iou(torch.from_numpy(scene.boxes[marked]).float(), found.boxes).argmax())]
        canvas, mark = Canvas.with_fills(detector, scene.image, ["mean"]), torch.from_numpy(scene.evidence[marked])
        scorer = ViewScorer(detector, canvas, ContrastTarget.of(found))
        masks = masks_for(canvas, canvas.geometry.boxes_to_input(found.boxes), 0)
        traced = trace_masks(scorer, masks, 12)
        assert traced is not None
        coarse = soft_masks(scorer, masks, 96, traced.scores)
        resolved = resolved_by(coarse, traced.slopes, masks.cell, 0.5)
        maps = canvas.to_image(torch.cat([coarse.values, resolved.values]))
        areas.append(roc_area(maps, mark.expand(2, -1, -1)))
        on_mark += bool(mark.flatten()[maps[1].argmax()])
    alone, joined = torch.stack(areas).mean(0).tolist()
    assert joined > max(alone, 0.98)
    assert on_mark >= 4
