"""Targets: equal to a slow, obvious computation; one scalar an image; right where grad-cam's is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou as tv_box_iou

from detxai.detections import Candidates, Detections
from detxai.targets import (
    BoxScoreTarget,
    BoxSideTarget,
    BoxTarget,
    ClassScoreTarget,
    ContrastTarget,
    SimilarityTarget,
    score_targets,
)


def _boxes(generator: torch.Generator, *shape: int) -> Tensor:
    corner = torch.rand(*shape, 2, generator=generator) * 50
    return torch.cat([corner, corner + torch.rand(*shape, 2, generator=generator) * 40], -1)


def _candidates(seed: int, batch: int, n: int, classes: int, own_boxes: bool, proposals: bool) -> Candidates:
    g = torch.Generator().manual_seed(seed)
    return Candidates(
        boxes=_boxes(g, batch, n, classes if own_boxes else 1),
        class_scores=torch.rand(batch, n, classes, generator=g),
        objectness=torch.rand(batch, n, generator=g),
        labels=torch.arange(1, classes + 1),
        proposals=_boxes(g, batch, n) if proposals else None,
    )


def _slow(target: Any, candidates: Candidates, image: int) -> float:
    """Each target's definition, one candidate at a time."""
    box = torch.tensor([target.box])
    best_quality, answers = 0.0, [0.0]
    for j in range(candidates.boxes.shape[1]):
        column = candidates.labels.tolist().index(target.label)
        own = candidates.boxes[image, j, column if candidates.boxes.shape[2] > 1 else 0]
        iou = float(tv_box_iou(box, own[None]))
        p = float(candidates.class_scores[image, j, column])
        proposals = candidates.proposals
        if proposals is not None and float(tv_box_iou(box, proposals[image, j][None])) < target.reach:
            continue
        if isinstance(target, ClassScoreTarget):
            answers.append(iou * p)
        elif isinstance(target, SimilarityTarget):
            vector = candidates.class_scores[image, j]
            wanted = torch.zeros(len(candidates.labels))
            wanted[column] = 1
            if target.class_scores is not None:
                wanted = torch.tensor(target.class_scores)
            cosine = float(wanted @ vector / (wanted.norm() * vector.norm()))
            answers.append(iou * float(candidates.objectness[image, j]) * cosine)
        elif iou * p > best_quality:
            best_quality = iou * p
            if isinstance(target, BoxScoreTarget):
                answers = [iou + p]
            elif isinstance(target, ContrastTarget):
                others = [float(q) for c, q in enumerate(candidates.class_scores[image, j]) if c != column]
                named = None if target.other is None else candidates.labels.tolist().index(target.other)
                rival = max(others, default=0.0) if named is None else float(candidates.class_scores[image, j, named])
                answers = [iou * (p - rival)]
            else:
                answers = [float(own[("left", "top", "right", "bottom").index(target.side)])]
    return max(answers)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    n=st.integers(1, 12),
    classes=st.integers(1, 4),
    own_boxes=st.booleans(),
    proposals=st.booleans(),
    reach=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_every_target_equals_its_definition(
    seed: int, batch: int, n: int, classes: int, own_boxes: bool, proposals: bool, reach: float
) -> None:
    candidates = _candidates(seed, batch, n, classes, own_boxes, proposals)
    g = torch.Generator().manual_seed(seed + 1)
    targets: list[Any] = []
    for kind in (ClassScoreTarget, BoxScoreTarget, SimilarityTarget, BoxSideTarget, ContrastTarget):
        box = _boxes(g, 1)[0]
        label = int(torch.randint(1, classes + 1, (1,), generator=g))
        targets.append(kind(box, label, reach=reach))
    targets.append(SimilarityTarget(box, label, reach=reach, class_scores=torch.rand(classes, generator=g)))
    targets.append(BoxSideTarget(box, label, reach=reach, side="bottom"))
    if classes > 1:
        targets.append(ContrastTarget(box, label, reach=reach, other=label % classes + 1))
    got = score_targets(targets, candidates)
    for i in range(len(targets)):
        for b in range(batch):
            assert math.isclose(float(got[i, b]), _slow(targets[i], candidates, b), abs_tol=1e-5)


@given(seed=st.integers(0, 1000), scale=st.floats(0.25, 4), shift=st.floats(-20, 20))
@settings(max_examples=20, deadline=None)
def test_moving_and_scaling_the_world_changes_no_score(seed: int, scale: float, shift: float) -> None:
    candidates = _candidates(seed, 2, 8, 3, True, True)
    moved = Candidates(
        candidates.boxes * scale + shift,
        candidates.class_scores,
        candidates.objectness,
        candidates.labels,
        candidates.proposals * scale + shift if candidates.proposals is not None else None,
    )
    box = torch.tensor([5.0, 5.0, 60.0, 50.0])
    for kind in (ClassScoreTarget, BoxScoreTarget, SimilarityTarget, ContrastTarget):
        before = score_targets([kind(box, 2, reach=0)], candidates)
        after = score_targets([kind(box * scale + shift, 2, reach=0)], moved)
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_one_image_or_a_batch_the_same_scores() -> None:
    candidates = _candidates(3, 4, 9, 3, False, True)
    targets = [
        ClassScoreTarget([0, 0, 40, 40], 1),
        SimilarityTarget([9, 9, 60, 60], 2),
        BoxScoreTarget([5, 5, 30, 30], 3),
        ContrastTarget([5, 5, 30, 30], 3),
        ContrastTarget([9, 9, 60, 60], 2, other=1),
    ]
    together = score_targets(targets, candidates)
    assert together.shape == (5, 4)
    for b, one in enumerate(candidates):
        for t, target in enumerate(targets):
            assert torch.equal(target(one), together[t, b])
            assert target(one).shape == ()


def test_the_nearest_box_of_another_class_is_no_match() -> None:
    """FIELD's case: a sure, right box at IoU 0.98 must not score 0 because a wrong-class box lies at IoU 1."""
    output = {
        "boxes": torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 98.0]]),
        "scores": torch.tensor([0.2, 0.95]),
        "labels": torch.tensor([7, 3]),
    }
    assert float(BoxScoreTarget([0, 0, 100, 100], 3)(output)) == pytest.approx(0.98 + 0.95)
    assert float(ClassScoreTarget([0, 0, 100, 100], 3)(output)) == pytest.approx(0.98 * 0.95)


def test_agrees_with_grad_cam_where_grad_cam_is_right() -> None:
    from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget

    output = {
        "boxes": torch.tensor([[0.0, 0.0, 50.0, 50.0], [100.0, 100.0, 160.0, 150.0]]),
        "scores": torch.tensor([0.9, 0.6]),
        "labels": torch.tensor([1, 2]),
    }
    box = torch.tensor([98.0, 101.0, 161.0, 149.0])
    theirs = FasterRCNNBoxScoreTarget(labels=[2], bounding_boxes=[box])(output)
    assert float(BoxScoreTarget(box, 2)(output)) == pytest.approx(float(theirs))


@pytest.mark.parametrize("kind", [ClassScoreTarget, BoxScoreTarget, SimilarityTarget, BoxSideTarget, ContrastTarget])
def test_nothing_found_is_zero(kind: Any) -> None:
    target = kind([0, 0, 10, 10], 3)
    nothing = Detections([], [], [])
    other_class = Detections([[0, 0, 10, 10]], [0.9], [1])
    elsewhere = Detections([[50, 50, 60, 60]], [0.9], [3])
    assert float(target(nothing)) == 0
    assert float(target(other_class)) == 0
    assert float(target(elsewhere)) == 0
    empty = Candidates(torch.zeros(2, 0, 1, 4), torch.zeros(2, 0, 5), torch.zeros(2, 0), torch.arange(5))
    assert score_targets([target], empty).tolist() == [[0, 0]]


def test_a_target_of_ones_own_is_asked_image_by_image() -> None:
    candidates = _candidates(0, 3, 5, 2, False, False)
    own = score_targets([lambda one: one.class_scores.sum(), ClassScoreTarget([0, 0, 9, 9], 1)], candidates)
    torch.testing.assert_close(own[0], candidates.class_scores.sum((1, 2)))


def test_of_makes_one_target_for_each_detection() -> None:
    found = Detections([[0, 0, 8, 8], [2, 2, 9, 9]], [0.9, 0.8], [1, 2])
    targets = BoxScoreTarget.of(found, reach=0.3)
    assert [(t.box, t.label, t.reach) for t in targets] == [((0, 0, 8, 8), 1, 0.3), ((2, 2, 9, 9), 2, 0.3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box": [0, 0, 1], "label": 1}, r"box must have shape \(4,\), got \(3,\)"),
        ({"box": [5, 0, 1, 1], "label": 1}, "box must be finite xyxy"),
        ({"box": [0, 0, math.nan, 1], "label": 1}, "box must be finite xyxy"),
        ({"box": [0, 0, 1, 1], "label": -1}, "label must be a class number"),
        ({"box": [0, 0, 1, 1], "label": "dog"}, "label must be a class number"),
        ({"box": [0, 0, 1, 1], "label": 1, "reach": 1.5}, "reach must be an IoU"),
    ],
)
@pytest.mark.parametrize("kind", [ClassScoreTarget, SimilarityTarget, ContrastTarget])
def test_bad_targets(kind: type[BoxTarget], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_bad_questions() -> None:
    candidates = _candidates(0, 2, 5, 3, False, False)
    with pytest.raises(ValueError, match=r"label must be one of the detector's 3 classes, got \[9\]"):
        score_targets([ClassScoreTarget([0, 0, 1, 1], 9)], candidates)
    with pytest.raises(ValueError, match="one image, got 2"):
        ClassScoreTarget([0, 0, 1, 1], 1)(candidates)
    with pytest.raises(TypeError, match="GradCamView"):
        ClassScoreTarget([0, 0, 1, 1], 1)(torch.zeros(1, 84, 100))
    with pytest.raises(ValueError, match="side must be one of"):
        BoxSideTarget([0, 0, 1, 1], 1, side="inside")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"class_scores must have shape \(3,\), got \(2,\)"):
        score_targets([SimilarityTarget([0, 0, 1, 1], 1, class_scores=[0.5, 0.5])], candidates)


def _two(vectors: list[list[float]]) -> Candidates:
    """Candidates at IoU 1 and 0.5 with the box 0 0 10 10, with these scores for classes 4, 5 and 6."""
    boxes = torch.tensor([[[[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 5.0]]]])
    scores = torch.tensor([vectors])
    return Candidates(boxes, scores, scores.amax(-1), torch.tensor([4, 5, 6]))


def test_a_contrast_by_hand() -> None:
    """Class 4: the second candidate has the higher IoU * p, .5 * .9 against .3, and finds 6 likeliest of the others."""
    found = _two([[0.3, 0.9, 0.0], [0.9, 0.1, 0.2]])
    box = [0, 0, 10, 10]
    assert float(ContrastTarget(box, 4, other=5)(found)) == pytest.approx(0.5 * (0.9 - 0.1))
    assert float(ContrastTarget(box, 4, other=6)(found)) == pytest.approx(0.5 * (0.9 - 0.2))
    assert float(ContrastTarget(box, 4)(found)) == pytest.approx(0.5 * (0.9 - 0.2))
    assert float(ContrastTarget(box, 6)(found)) == pytest.approx(0.5 * (0.2 - 0.9))  # another class is likelier
    (asked,) = ContrastTarget.seen_in(found, Detections([box], [0.5], [4]))
    assert (asked.label, asked.other) == (4, 6)
    assert float(asked(_two([[0.0, 0.0, 0.0], [0.9, 0.8, 0.2]]))) == pytest.approx(0.5 * 0.7)  # still against 6
    (plain,) = ContrastTarget.seen_in(
        Candidates.from_output(Detections([box], [0.5], [4])), Detections([box], [1], [4])
    )
    assert plain.other is None
    assert float(plain(Detections([box], [0.5], [4]))) == pytest.approx(0.5)


def test_a_contrast_has_the_gradient_of_finite_differences() -> None:
    base = torch.tensor([[[0.3, 0.9, 0.05], [0.9, 0.1, 0.2]]], dtype=torch.float64)
    boxes = _two([[0.0] * 3] * 2).boxes.double()

    def score(scores: Tensor, corners: Tensor) -> Tensor:
        found = Candidates(corners, scores, scores.amax(-1), torch.tensor([4, 5, 6]))
        targets = [ContrastTarget([0, 0, 9, 9], 4, other=5), ContrastTarget([0, 0, 9, 9], 4)]
        return score_targets(targets, found)

    boxes = boxes + torch.tensor([0.3, 0.2, 0.1, 0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(score, (base.requires_grad_(), boxes.requires_grad_()))


@pytest.mark.parametrize("off", [0.0, 1e-6, -1e-5, 1e-3])
def test_at_the_detectors_own_box_rounding_does_not_choose_the_slope(off: float) -> None:
    """Beside the box's own place the IoU falls either way; its slope there is the mean of both, which is 0."""
    own = torch.tensor([[10.0, 20.0, 40.0, 60.0]])
    boxes = (own + off * torch.tensor([1.0, -1.0, 1.0, 1.0])).requires_grad_()
    score = torch.tensor([0.9], requires_grad=True)
    target = ClassScoreTarget(own[0], 3)
    answer = target({"boxes": boxes, "scores": score, "labels": torch.tensor([3])})
    by_box, by_score = torch.autograd.grad(answer, (boxes, score))
    iou = float(tv_box_iou(own, boxes.detach()))
    assert float(answer.detach()) == pytest.approx(0.9 * iou, rel=1e-6)
    assert float(by_score) == pytest.approx(iou, rel=1e-6)
    step = 0.5
    sides = torch.eye(4) * step
    slopes = [
        (float(tv_box_iou(own, own + side)) - float(tv_box_iou(own, own - side))) / (2 * step) * 0.9 for side in sides
    ]
    torch.testing.assert_close(by_box[0], torch.tensor(slopes), atol=3e-4, rtol=0)
    assert float(by_box.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("other", "message"), [(1, "other must be another class than label"), (-2, "class number"), (True, "class number")]
)
def test_a_contrast_is_with_another_class(other: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastTarget([0, 0, 1, 1], 1, other=other)


def test_a_contrast_with_a_class_that_is_none_of_the_detectors() -> None:
    with pytest.raises(ValueError, match="other must be one of the detector's 3 classes, got 9"):
        score_targets([ContrastTarget([0, 0, 10, 10], 4, other=9)], _two([[0.5] * 3] * 2))
