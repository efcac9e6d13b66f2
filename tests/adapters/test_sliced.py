"""A detector on slices: where these lie, what is found in them, and how it is merged."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sliced_detectors import SIZE, Spots, answer_by_hand, one_stage, photo, two_stages, windows_by_hand, with_spots
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.network import module_of
from detxai.adapters.sliced import SlicedAdapter, Slicing
from detxai.adapters.sliced.merging import merged
from detxai.detections import Candidates, Detections


@pytest.fixture(scope="module", params=[two_stages, one_stage], ids=["two-stage", "one-stage"])
def inner(request: pytest.FixtureRequest) -> Detector:
    made: Detector = request.param()
    return made


def sliced(inner: Any, *slices: Any, **more: Any) -> SlicedAdapter:
    detector = detxai.wrap(inner, slices=Slicing(*slices, **more))
    assert isinstance(detector, SlicedAdapter)
    return detector


def same_boxes(first: Detections, second: Detections) -> None:
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def same_candidates(first: Candidates, second: Candidates) -> None:
    for name in ("boxes", "class_scores", "objectness", "labels"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


# where slices lie


@given(
    rows=st.integers(1, 6), columns=st.integers(1, 6), overlap=st.floats(0, 0.7),
    height=st.integers(40, 400), width=st.integers(40, 400),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_slices_are_of_one_size_cover_the_image_and_are_the_smallest_that_do(
    rows: int, columns: int, overlap: float, height: int, width: int
) -> None:
    try:
        windows = Slicing(rows, columns, overlap).windows((height, width))
    except ValueError:
        assume(False)  # too small: no size of slice gives so many
    high, wide = int(windows[0, 3] - windows[0, 1]), int(windows[0, 2] - windows[0, 0])
    down, right = high - int(overlap * high), wide - int(overlap * wide)
    assert [tuple(row) for row in windows.tolist()] == windows_by_hand(height, width, high, wide, down, right)
    assert len(windows) == rows * columns
    seen = torch.zeros(height, width, dtype=torch.bool)
    for left, top, right_, bottom in windows.tolist():
        seen[top:bottom, left:right_] = True
    assert seen.all()
    if high > 1:
        shorter = high - 1
        assert (rows - 1) * (shorter - int(overlap * shorter)) + shorter < height


def test_slices_of_an_example_small_enough_for_paper() -> None:
    assert Slicing(1, 2, 0.0).windows((3, 7)).tolist() == [[0, 0, 4, 3], [3, 0, 7, 3]]
    assert Slicing(2, 1, 0.5).windows((6, 5)).tolist() == [[0, 0, 5, 4], [0, 2, 5, 6]]


# what is found in them


@pytest.mark.parametrize("size", [SIZE, (61, 47)])
@pytest.mark.parametrize("as_float", [False, True], ids=["uint8", "float"])
def test_a_single_slice_is_the_detector_itself_bit_for_bit(
    inner: Detector, size: tuple[int, int], as_float: bool
) -> None:
    image: Any = photo(3, size)
    if as_float:  # levels that no file of eight bits has
        image = torch.from_numpy(image).permute(2, 0, 1).float() / 255 * 0.9637
    detector = sliced(inner, 1, 1, 0.2)
    found = inner.detect(image, 0.05)
    assert len(found) > 1
    same_boxes(detector.detect(image, 0.05), found)
    with torch.no_grad():
        same_candidates(detector.candidates(image), inner.candidates(image))


@pytest.mark.parametrize(("slices", "whole_image"), [((2, 2, 0.2), True), ((3, 2, 0.41), True), ((1, 3, 0.0), False)])
def test_candidates_are_those_of_every_slice_moved_to_the_image(
    inner: Detector, slices: tuple[int, int, float], whole_image: bool
) -> None:
    detector, image = sliced(inner, *slices, whole_image=whole_image), photo(1)
    found = detector.candidates(image)
    by_hand = answer_by_hand(detector, image)
    n_parts = slices[0] * slices[1] + whole_image
    assert len(by_hand) == n_parts
    each = found.boxes.shape[1] // n_parts
    for place, own in enumerate(by_hand):
        mine = slice(place * each, place * each + own.boxes.shape[1])
        assert torch.allclose(found.boxes[:, mine], own.boxes, atol=1e-9)
        assert torch.allclose(found.class_scores[:, mine], own.class_scores, atol=1e-9)
        if own.proposals is not None:
            assert found.proposals is not None
            assert torch.allclose(found.proposals[:, mine], own.proposals, atol=1e-9)
    assert float(found.objectness.sum()) == pytest.approx(sum(float(own.objectness.sum()) for own in by_hand))


def test_images_of_several_sizes_answer_as_each_alone(inner: Detector) -> None:
    images = [photo(1), photo(2, (50, 64)), photo(3)]
    detector = sliced(inner, 2, 2, 0.25)
    together = detector.candidates(images)
    for place, image in enumerate(images):
        alone, mine = detector.candidates(image), together[place]
        best, same = (one.class_scores[0].amax(1).sort(descending=True).values[:20] for one in (alone, mine))
        assert torch.allclose(best, same, atol=1e-9)
        assert float(alone.objectness.sum()) == pytest.approx(float(mine.objectness.sum()))


def test_boxes_end_where_their_slice_does_but_not_at_the_edge_of_the_image() -> None:
    """The function's box reaches a pixel beyond the patch on each side, and beyond the image that it is shown."""
    image = with_spots((0, 38, 10, 8, 0))  # at the upper edge, across the border of two slices of 40 columns
    found = sliced(Spots(), 1, 2, 0.0, whole_image=False).candidates(image)
    assert sorted(found.boxes[0, :, 0][found.objectness[0] > 0].tolist()) == [[37, -1, 40, 11], [40, -1, 47, 11]]


def test_what_slices_show_of_one_object_is_joined_to_one_box() -> None:
    image = with_spots((20, 28, 16, 26, 1))
    detector = sliced(Spots(), 1, 2, 0.25, whole_image=False)  # slices of 46 columns: 0 to 46, 34 to 80
    (box,) = detector.detect(image, 0.5).boxes.tolist()
    assert box == [27, 19, 55, 37]
    halves = sliced(Spots(), 1, 2, 0.25, whole_image=False, merge="nms", match_metric="iou", match_threshold=0.9)
    assert sorted(halves.detect(image, 0.5).boxes[:, 0].tolist()) == [27, 34]


def test_below_a_tenth_boxes_are_suppressed_by_iou_as_sahi_does() -> None:
    image = with_spots((20, 28, 16, 26, 1))
    found = sliced(Spots(), 1, 2, 0.25, whole_image=False).detect(image, 0.09)
    assert sorted(found.boxes[:, 0].tolist()) == [27, 34]


def test_nothing_found_is_no_boxes() -> None:
    detector = sliced(Spots(), 2, 2)
    assert len(detector.detect(with_spots(), 0.5)) == 0
    assert float(detector.candidates(with_spots()).class_scores.sum()) == 0


# how it is merged: by hand, in SAHI's words "match" is at or above the threshold


def test_merging_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [6, 0, 16, 10], [12, 0, 22, 10], [0, 0, 10, 10]]
    found = Detections(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1], ["a", "b"])

    def left(**more: Any) -> list[list[float]]:
        return sorted(merged(found, Slicing(1, 2, **more)).boxes.tolist())

    assert left(match_threshold=0.4) == [[0, 0, 10, 10], [0, 0, 16, 10], [12, 0, 22, 10]]
    assert left(match_threshold=0.41) == sorted(map(list, np.array(boxes, dtype=float)))
    assert left(merge="nms", match_threshold=0.4) == [[0, 0, 10, 10], [0, 0, 10, 10], [12, 0, 22, 10]]
    assert left(class_agnostic=True, match_threshold=0.5) == [[0, 0, 10, 10], [6, 0, 16, 10], [12, 0, 22, 10]]


@given(seed=st.integers(0, 10_000), metric=st.sampled_from(["ios", "iou"]), threshold=st.floats(0.05, 1))
@settings(max_examples=15, deadline=None)
def test_merged_boxes_cover_all_and_match_no_longer(seed: int, metric: Any, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner, sides = torch.rand(12, 2, generator=generator) * 40, torch.rand(12, 2, generator=generator) * 30 + 1
    scores, labels = torch.rand(12, generator=generator), torch.randint(0, 2, (12,), generator=generator)
    found = Detections(torch.cat([corner, corner + sides], 1), scores, labels)
    for merge in ("greedy_nmm", "nms"):
        kept = merged(found, Slicing(1, 2, merge=merge, match_metric=metric, match_threshold=threshold))
        assert kept.scores.tolist() == sorted(kept.scores.tolist(), reverse=True)
        assert set(kept.scores.tolist()) <= set(scores.tolist())
        assert float(kept.scores[0]) == float(scores.max())
        assert len(merged(found[torch.randperm(12, generator=generator)], Slicing(1, 2, merge=merge))) == len(
            merged(found, Slicing(1, 2, merge=merge))
        )
        assert set(kept.labels.tolist()) == set(labels.tolist())


# the model comes back, and what cannot be is refused


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_the_model_comes_back_as_it_was(raised: type[BaseException]) -> None:
    inner = two_stages()
    module_of(inner).train()
    state = {name: value.clone() for name, value in module_of(inner).state_dict().items()}
    detector = sliced(inner, 2, 2)
    detector.detect(photo())
    calls = 0

    def stop(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise raised

    with module_of(inner).register_forward_pre_hook(stop), pytest.raises(raised):
        detector.detect(photo())
    assert all(module.training for module in module_of(inner).modules())
    assert all(torch.equal(value, state[name]) for name, value in module_of(inner).state_dict().items())
    assert not any(module._forward_hooks for module in module_of(inner).modules())


@pytest.fixture(scope="module")
def asked() -> SlicedAdapter:
    return sliced(one_stage(), 1, 2, whole_image=False)


def answers(detector: SlicedAdapter) -> list[Tensor]:
    """Of everything that is asked of a sliced detector."""
    found, seen = detector.detect(photo(2), 0.05), detector.candidates(photo(2))
    methods: tuple[Any, ...] = (detxai.LayerCAM(), detxai.DRISE(16))
    maps = [torch.from_numpy(method(detector, photo(2), found[:1])[0].values) for method in methods]
    return [found.boxes, found.scores, seen.boxes, seen.class_scores, *maps]


@pytest.fixture(scope="module")
def expected(asked: SlicedAdapter) -> list[Tensor]:
    return answers(asked)


@pytest.mark.parametrize("context", [torch.inference_mode, lambda: torch.device("meta")], ids=["inference", "device"])
def test_what_the_caller_has_set_changes_nothing(context: Any, asked: SlicedAdapter, expected: list[Tensor]) -> None:
    with context():
        found = answers(asked)
    for ours, bare in zip(found, expected, strict=True):
        assert torch.allclose(ours, bare, atol=1e-6)


def test_two_threads_get_the_answers_of_one(asked: SlicedAdapter, expected: list[Tensor]) -> None:
    found: list[list[Tensor]] = []
    threads = [threading.Thread(target=lambda: found.append(answers(asked))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for one in found:
        assert all(torch.allclose(ours, alone, atol=1e-6) for ours, alone in zip(one, expected, strict=True))


BAD_SLICES: dict[str, tuple[Any, type[Exception], str]] = {
    "a number": (4, TypeError, "slices must be .rows, columns, overlap.*got 4"),
    "a text": ("2,2,0.2", TypeError, "slices must be"),
    "two numbers": ((2, 2), ValueError, "slices must be .*got .2, 2."),
    "no rows": ((0, 2, 0.2), ValueError, "slices: rows must be a whole number from 1, got 0"),
    "half a column": ((2, 1.5, 0.2), ValueError, "slices: columns must be a whole number from 1, got 1.5"),
    "True": ((True, 2, 0.2), ValueError, "slices: rows"),
    "all overlap": ((2, 2, 1.0), ValueError, r"slices: overlap must be a number in \[0, 1\), got 1.0"),
    "NaN": ((2, 2, float("nan")), ValueError, "slices: overlap"),
    "no number": ((2, 2, "0.2"), ValueError, "slices: overlap"),
}


@pytest.mark.parametrize("case", BAD_SLICES)
def test_bad_slices_are_refused_before_anything_is_loaded(case: str) -> None:
    slices, kind, says = BAD_SLICES[case]
    with pytest.raises(kind, match=says):
        detxai.wrap("no-such-model", slices=slices)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"merge": "wbf"}, "merge must be one of"),
        ({"match_metric": "giou"}, "match_metric must be one of"),
        ({"match_threshold": 0}, "match_threshold must be a number in"),
        ({"whole_image": 1}, "whole_image must be True or False"),
        ({"rows": None, "columns": None, "size": 64}, "size must be"),
        ({"size": (64, 64)}, "give rows and columns, or a size"),
    ],
)
def test_bad_settings_of_a_slicing(setting: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"slices: {says}"):
        Slicing(**{"rows": 2, "columns": 2, **setting})


@pytest.mark.parametrize("size", [(0, 64), (64, -1), (64.0, 64), (None, 64)])
def test_a_bad_size_of_slices(size: Any) -> None:
    with pytest.raises(ValueError, match=r"slices: (height|width) must be a whole number from 1"):
        Slicing.of_size(*size)


def test_an_image_smaller_than_a_slice_is_one_slice() -> None:
    seen = Spots()
    detector = detxai.wrap(seen, slices=Slicing.of_size(100, 200))
    same_boxes(
        detector.detect(with_spots((4, 6, 9, 9, 0)), 0.2), detxai.wrap(Spots()).detect(with_spots((4, 6, 9, 9, 0)), 0.2)
    )
    assert seen.sizes == [(60, 80)]


@pytest.mark.parametrize("slices", [(80, 2, 0.2), (2, 2000, 0.0), (30, 30, 0.9)])
def test_an_image_too_small_for_so_many_slices(slices: tuple[int, int, float]) -> None:
    seen = Spots()
    detector = detxai.wrap(seen, slices=slices)
    for ask in (detector.detect, detector.candidates):
        with pytest.raises(ValueError, match=r"slices: an image (60|80) pixels (high|wide) cannot be cut into"):
            ask(with_spots())
    assert not seen.sizes


def test_slices_of_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="sliced already"):
        detxai.wrap(detxai.wrap(Spots(), slices=(2, 2, 0.2)), slices=(2, 2, 0.2))


def test_a_score_threshold_out_of_range() -> None:
    with pytest.raises(ValueError, match="score_threshold must lie in"):
        sliced(Spots(), 2, 2).detect(with_spots(), 1.5)


def test_layers_features_and_gradients_are_refused_with_what_works_instead() -> None:
    detector: Any = sliced(two_stages(), 2, 2)
    found = Detections([[1, 1, 20, 20]], [0.5], [1])
    asks: list[Any] = [
        lambda: detector.default_layers,
        lambda: detector.reshape_transform,
        lambda: detector.features(photo()),
        lambda: detector.layer_names(),
        lambda: detector.scalar(found, photo()),
        lambda: detxai.EigenCAM()(detector, photo()),
    ]
    for ask in asks:
        with pytest.raises(TypeError, match="pixel_evidence, region_shapley and d_rise explain its boxes"):
            ask()


def test_it_says_what_it_is() -> None:
    inner = two_stages()
    detector = sliced(inner, 2, 3, 0.25, merge="nms")
    told = detector.describe()
    assert told["family"] == "faster_rcnn"
    assert (told["slices"]["rows"], told["slices"]["columns"], told["slices"]["overlap"]) == (2, 3, 0.25)
    assert told["slices"]["merge"] == "nms"
    assert detector.fingerprint() == inner.fingerprint()
    assert detector.class_names == inner.class_names
    assert detector.model is module_of(inner)


def test_candidates_have_no_graph() -> None:
    """It would end where the image is cut: a gradient that looks like one and is none."""
    found: Tensor = sliced(one_stage(), 2, 2).candidates(photo()).class_scores
    assert not found.requires_grad
