"""Views of an image asked slice by slice: the scores of full sliced inference, in fewer passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sliced_detectors import Spots, answer_by_hand, detections_by_hand, one_stage, photo, saved, two_stages, with_spots
from torch import Tensor

import detxai
from detxai.adapters.sliced import SlicedAdapter, Slicing
from detxai.detections import Candidates, Detections
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.scoring import ViewScorer
from detxai.targets import (
    BoxScoreTarget,
    BoxSideTarget,
    BoxTarget,
    ClassScoreTarget,
    ContrastTarget,
    SimilarityTarget,
    Target,
    score_targets,
)
from detxai.targets.target import Match

Masks = Callable[[Tensor], Tensor]


def sliced(inner: Any, *slices: Any, **more: Any) -> SlicedAdapter:
    detector = detxai.wrap(inner, slices=Slicing(*slices, **more))
    assert isinstance(detector, SlicedAdapter)
    return detector


def patches(*hidden: tuple[int, int, int, int], size: tuple[int, int]) -> Masks:
    """One mask a patch (top, left, height, width), which hides it."""
    masks = torch.ones(len(hidden), *size)
    for mask, (top, left, height, width) in zip(masks, hidden):
        mask[top : top + height, left : left + width] = 0
    return lambda numbers: masks[numbers]


def soft(size: tuple[int, int], seed: int = 0) -> Masks:
    """Four views, of which each hides something softly in another corner of the image."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.ones(4, *size)
    for number, mask in enumerate(masks):
        part = [side * 2 // 5 for side in size]
        top, left = (number // 2) * (size[0] - part[0]), (number % 2) * (size[1] - part[1])
        coarse = torch.rand(1, 1, 4, 4, generator=generator)
        mask[top : top + part[0], left : left + part[1]] = torch.nn.functional.interpolate(coarse, size=part)[0, 0]
    return lambda numbers: masks[numbers]


def asked(detector: SlicedAdapter, canvas: Canvas, targets: list[Any], masks: Masks, n: int, **more: Any) -> Tensor:
    batch_size = more.pop("batch_size", None)
    return torch.cat(list(ViewScorer(detector, canvas, targets, batch_size).batches(masks, range(n), **more)), 1)


def by_brute_force(
    detector: SlicedAdapter, canvas: Canvas, targets: list[Any], masks: Masks, n: int, fills: Tensor
) -> Tensor:
    """Every view saved as an image, all slices of which are cut by hand and asked of the detector inside."""
    scores = []
    for number in range(n):
        keep = masks(torch.tensor([number]))[0]
        view = saved(canvas.filling[fills[number]] + keep * (canvas.clean.tensor[0] - canvas.filling[fills[number]]))
        if detector.network is not None:
            everything = together(answer_by_hand(detector, view))
        else:
            everything = Candidates.from_output(detections_by_hand(detector, view))
        scores.append(score_targets(targets, everything))
    return torch.cat(scores, 1)


def together(parts: list[Candidates]) -> Candidates:
    """All candidates of all parts, as those of one image."""
    proposals = [part.proposals for part in parts if part.proposals is not None]
    boxes, scores, objectness = (
        torch.cat([getattr(part, name) for part in parts], 1) for name in ("boxes", "class_scores", "objectness")
    )
    return Candidates(boxes, scores, objectness, parts[0].labels, torch.cat(proposals, 1) if proposals else None)


@dataclass(frozen=True)
class SumTarget(BoxTarget):
    """It promises nothing, and reads every candidate."""

    @classmethod
    def score(cls, targets: Any, match: Match, candidates: Candidates) -> Tensor:
        return candidates.objectness.sum(1).expand(len(targets), -1)


def strongest(output: Any) -> Tensor:
    """A target that is a plain function."""
    best: Tensor = Candidates.from_output(output).class_scores.amax()
    return best


def questions(found: Detections) -> list[Any]:
    kinds: tuple[Any, ...] = (ClassScoreTarget, SimilarityTarget, ContrastTarget, BoxScoreTarget, BoxSideTarget)
    return [target for kind in kinds for target in kind.of(found)]


MAKERS: dict[str, Callable[[], Any]] = {"two-stage": two_stages, "one-stage": one_stage}


@pytest.mark.parametrize(
    ("name", "slices", "whole_image"),
    [
        ("two-stage", (2, 2, 0.2), True),
        ("one-stage", (2, 3, 0.0), False),
        ("one-stage", (3, 1, 0.37), True),
    ],
)
def test_scores_are_those_of_every_slice_of_the_saved_view(
    name: str, slices: tuple[int, int, float], whole_image: bool
) -> None:
    detector, image = sliced(MAKERS[name](), *slices, whole_image=whole_image), photo(2)
    found = detector.detect(image, 0.1)[:2]
    assert len(found) == 2
    canvas = Canvas.with_fills(detector, image, ["black", "mean"])
    targets, masks, fills = questions(found), soft(canvas.size), torch.arange(4) % 2
    scores = asked(detector, canvas, targets, masks, 4, fills=fills)
    expected = by_brute_force(detector, canvas, targets, masks, 4, fills)
    assert float(scores.amax()) > 0.1
    assert torch.allclose(scores.double(), expected, atol=1e-6)
    assert canvas.parts is not None
    assert canvas.parts.n_passes < 4 * len(canvas.parts.parts)  # something was left out


@pytest.mark.parametrize("target", [SumTarget((0, 0, 9, 9), 1), strongest], ids=["no promise", "function"])
def test_targets_that_promise_nothing_see_every_slice(target: Target) -> None:
    detector, image = sliced(one_stage(), 2, 2, 0.2, whole_image=False), photo(2)
    canvas = Canvas.with_fill(detector, image)
    masks = soft(canvas.size)
    scores = asked(detector, canvas, [target], masks, 4)
    expected = by_brute_force(detector, canvas, [target], masks, 4, torch.zeros(4, dtype=torch.long))
    assert torch.allclose(scores.double(), expected, atol=1e-5)


def test_a_function_that_answers_with_detections() -> None:
    """Classes come and go with what each slice shows."""
    image = with_spots((4, 6, 9, 12, 0), (30, 44, 20, 24, 1), (6, 60, 8, 8, 2))
    detector = sliced(Spots(), 2, 2, 0.2)
    found = detector.detect(image, 0.3)
    assert sorted(found.labels.tolist()) == [0, 1, 2]
    canvas = Canvas.with_fills(detector, image, ["black", "blur"])
    targets, masks, fills = questions(found), soft(canvas.size, seed=1), torch.arange(4) % 2
    scores = asked(detector, canvas, targets, masks, 4, fills=fills)
    assert torch.allclose(scores, by_brute_force(detector, canvas, targets, masks, 4, fills), atol=1e-6)


# what it costs: Spots counts the images that it is shown. Slices of 60 x 80 in 2 x 2 without overlap: 30 x 40


SIZE = (60, 80)
IMAGE = with_spots((4, 4, 10, 10, 0), (10, 34, 12, 12, 1))  # in the upper left slice; across both upper ones
FOUND = Detections([[3, 3, 15, 15], [33, 9, 47, 23]], [0.98, 0.98], [0, 1])
ELSEWHERE, UPPER_LEFT, UPPER_RIGHT = (40, 50, 10, 10), (2, 2, 5, 5), (2, 70, 5, 5)


def cost(detector: SlicedAdapter, targets: list[Any], masks: Masks, n: int, **more: Any) -> tuple[int, int]:
    """How many images the function inside saw, and how many passes are told."""
    canvas = Canvas.with_fill(detector, IMAGE, "black")
    function: Any = detector.inner.function  # type: ignore[attr-defined]
    function.sizes.clear()
    asked(detector, canvas, targets, masks, n, **more)
    assert canvas.parts is not None
    return len(function.sizes), canvas.parts.n_passes


@pytest.mark.parametrize(
    ("box", "hidden", "n_passes", "why"),
    [
        (0, [ELSEWHERE], 1, "its slice is as it was: the clean image's answer"),
        (0, [ELSEWHERE, UPPER_RIGHT, ELSEWHERE], 1, "so it is in all of these views, for one pass together"),
        (0, [UPPER_LEFT], 1, "its slice is changed, and nobody asks what it was"),
        (0, [UPPER_LEFT, ELSEWHERE, UPPER_LEFT], 3, "changed, as it was, changed"),
        (1, [ELSEWHERE], 2, "both slices that show a part of it"),
        (1, [UPPER_LEFT], 2, "one changed, one as it was"),
        (1, [UPPER_LEFT, UPPER_RIGHT], 4, "each changed once, each needed once as it was"),
        (0, [(0, 0, 60, 80)], 1, "all hidden: its slice of the filling"),
        (0, [(0, 0, 30, 40), (0, 0, 60, 80), (0, 0, 40, 80)], 1, "its slice hidden, in three views: once"),
    ],
)
def test_passes_that_a_box_costs(box: int, hidden: list[tuple[int, int, int, int]], n_passes: int, why: str) -> None:
    detector = sliced(Spots(), 2, 2, 0.0, whole_image=False)
    targets = ClassScoreTarget.of(FOUND[box])
    assert cost(detector, targets, patches(*hidden, size=SIZE), len(hidden)) == (n_passes, n_passes), why


def test_the_whole_image_is_one_pass_more_for_every_view_that_changes_anything() -> None:
    detector = sliced(Spots(), 2, 2, 0.0)
    masks = patches(ELSEWHERE, UPPER_LEFT, (0, 0, 0, 0), size=SIZE)
    assert cost(detector, ClassScoreTarget.of(FOUND[0]), masks, 3) == (
        5,
        5,
    )  # 2 + 1 clean; 1 slice changed, 1 as it was


def test_views_made_for_one_box_cost_only_that_boxes_slices() -> None:
    """Two boxes in opposite corners: of eight views, half for each, one slice a view and not two."""
    image = with_spots((4, 4, 10, 10, 0), (40, 60, 10, 10, 1))
    detector = sliced(Spots(), 2, 2, 0.0, whole_image=False)
    found = detector.detect(image, 0.5)
    targets, own = ClassScoreTarget.of(found), torch.arange(8) % 2
    canvas = Canvas.with_fill(detector, image)
    noise = torch.rand(8, *SIZE, generator=torch.Generator().manual_seed(0))
    scores = asked(detector, canvas, targets, lambda numbers: noise[numbers], 8, asked=own)
    assert canvas.details() == {"n_slices": 4, "slice_passes": 8}
    together = asked(detector, Canvas.with_fill(detector, image), targets, lambda numbers: noise[numbers], 8)
    each = torch.arange(8)
    assert torch.equal(scores[own, each], together[own, each])
    assert scores[1 - own, each].isnan().all()


def test_views_made_for_one_box_say_nothing_of_others_without_slices_either() -> None:
    detector = detxai.wrap(Spots())
    canvas, targets, masks = (
        Canvas.with_fill(detector, IMAGE),
        ClassScoreTarget.of(FOUND),
        patches(ELSEWHERE, size=SIZE),
    )
    scorer = ViewScorer(detector, canvas, targets)
    (every,) = scorer.batches(masks, [0])
    (own,) = scorer.batches(masks, [0], asked=torch.tensor([1]))
    assert own[1] == every[1]
    assert own[0].isnan().all()


def test_batch_sizes_change_nothing_and_running_out_of_memory_halves_the_slices() -> None:
    detector, image = sliced(one_stage(), 2, 2, 0.2), photo(2)
    targets = ClassScoreTarget.of(detector.detect(image, 0.1)[:2])
    scores = [
        asked(detector, Canvas.with_fill(detector, image), targets, soft(photo().shape[:2]), 4, batch_size=size)
        for size in (1, 3, 8)
    ]
    assert torch.allclose(scores[0], scores[1], atol=1e-9)
    assert torch.allclose(scores[0], scores[2], atol=1e-9)

    def at_most_two(module: Any, given: Any) -> None:
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError

    with detector.model.backbone.register_forward_pre_hook(at_most_two):  # type: ignore[union-attr]
        canvas = Canvas.with_fill(detector, image)
        assert torch.allclose(
            scores[0], asked(detector, canvas, targets, soft(canvas.size), 4, batch_size=8), atol=1e-9
        )


def test_a_box_without_area_and_one_beyond_the_image_score_nothing() -> None:
    detector = sliced(Spots(), 2, 2, 0.0)
    targets = [ClassScoreTarget((5, 5, 5, 5), 0), ClassScoreTarget((-20, -20, -10, -10), 0)]
    scores = asked(detector, Canvas.with_fill(detector, IMAGE), targets, patches(ELSEWHERE, UPPER_LEFT, size=SIZE), 2)
    assert torch.equal(scores, torch.zeros(2, 2))


def test_another_detector_on_the_same_canvas_is_asked_itself() -> None:
    detector, other = sliced(Spots(), 2, 2, 0.0), sliced(Spots(), 1, 1, 0.0)
    canvas = Canvas.with_fill(detector, IMAGE)
    targets = ClassScoreTarget.of(FOUND)
    scores = asked(other, canvas, targets, patches(UPPER_LEFT, size=SIZE), 1)
    assert torch.equal(scores, asked(other, Canvas.with_fill(other, IMAGE), targets, patches(UPPER_LEFT, size=SIZE), 1))
    assert canvas.parts is not None
    assert canvas.parts.n_passes == 0


def test_levels_between_those_of_eight_bits_are_kept_where_the_image_has_them() -> None:
    detector = sliced(one_stage(), 2, 2, 0.2, whole_image=False)
    image = torch.from_numpy(photo(2)).permute(2, 0, 1).float() / 255 * 0.9637
    canvas = Canvas.with_fill(detector, image, "mean")
    targets = ClassScoreTarget.of(detector.detect(image, 0.1)[:2])
    masks = soft(canvas.size)
    scores = asked(detector, canvas, targets, masks, 4)
    view = canvas.inputs(masks(torch.arange(4)))
    expected = [score_targets(targets, detector.candidates(one.clamp(0, 1))) for one in view.tensor]
    assert torch.allclose(scores.double(), torch.cat(expected, 1), atol=1e-9)
    rounded = [score_targets(targets, detector.candidates(saved(one))) for one in view.tensor]
    assert not torch.allclose(scores.double(), torch.cat(rounded, 1), atol=1e-9)


def test_spots_see_what_the_tests_above_say() -> None:
    detector = sliced(Spots(), 2, 2, 0.0, whole_image=False)
    found = detector.detect(IMAGE, 0.5)
    assert found.boxes[found.labels == 0].tolist() == [FOUND.boxes[0].tolist()]
    assert found.boxes[found.labels == 1].tolist() == [[33, 9, 40, 23], [40, 9, 47, 23]]  # halves do not overlap
