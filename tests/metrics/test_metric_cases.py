"""What a measure is handed is checked once, where it comes in; the registry keeps what it promises."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from small_cases import noise, scene_case, scene_detections, scene_image, scenes_detector, small_case, smooth

import detxai
from detxai.engine import rank_correlation as ranking_module
from detxai.engine.rank_correlation import in_parts, rank_correlation
from detxai.explanation import Cost, Explanation
from detxai.metrics import MEASURES, Case, Objects
from detxai.metrics.inputs.maps import box_masks, heatmaps, refuse_cropped
from detxai.metrics.inputs.roc_area import roc_area
from detxai.metrics.insertion_deletion import pixel_ranks
from detxai.metrics.sparseness import gini


def explanation(i: int | None, seed: int = 0) -> Explanation:
    found = scene_detections()
    image = scene_image()
    values = smooth(1, image.shape[0], image.shape[1], seed)[0].numpy()
    return Explanation(values, image, "any", {}, Cost(0, 0), None if i is None else found[i])


def test_explanations_become_a_case() -> None:
    explanations = [explanation(0, 0), explanation(1, 1)]
    case = Case.from_explanations(scenes_detector(), explanations, scene_detections())
    assert case.maps.shape == (2, *scene_image().shape[:2])
    for one, map_ in zip(explanations, case.maps):
        np.testing.assert_array_equal(one.values, map_.numpy())


def test_a_map_that_asks_about_no_box_serves_every_detection() -> None:
    (eigen,) = detxai.EigenCAM()(scenes_detector(), scene_image())
    case = Case.from_explanations(scenes_detector(), [eigen], scene_detections())
    assert torch.equal(case.maps[0], case.maps[1])
    assert len(Case.from_explanations(scenes_detector(), [eigen], scene_detections()[:0])) == 0


@pytest.mark.parametrize(
    ("explained", "message"),
    [
        ([0], "one for each of 2 detections, got 1"),
        ([], "one for each of 2 detections, got 0"),
        ([1, 0], "explanation 0 must be of detection 0"),
    ],
)
def test_explanations_of_something_else_are_refused(explained: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case.from_explanations(scenes_detector(), [explanation(i) for i in explained], scene_detections())


def test_explanations_of_two_images_are_refused() -> None:
    other = dataclasses.replace(explanation(1), image=255 - scene_image())
    with pytest.raises(ValueError, match="of one image"):
        Case.from_explanations(scenes_detector(), [explanation(0), other], scene_detections())


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"maps": torch.zeros(2, 5, 5)}, "maps must have shape"),
        ({"maps": torch.full((2, 160, 160), torch.nan)}, "maps must be finite"),
        ({"evidence": torch.zeros(1, 160, 160)}, "evidence must have shape"),
        ({"causes": [torch.zeros(0, 160, 160)]}, "causes must be of 2 detections, got 1"),
        ({"causes": [torch.zeros(1, 4, 4)] * 2}, r"causes\[0\] must have shape"),
        (
            {"objects": Objects(torch.zeros(1, 4), torch.tensor([1])), "object_of": torch.tensor([0, 1])},
            "object_of must lie in",
        ),
        (
            {"objects": Objects(torch.zeros(1, 4), torch.tensor([1]), torch.zeros(1, 9, 9))},
            "objects.masks must have shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused(known: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scene_case(**known)


def test_objects_check_themselves() -> None:
    with pytest.raises(ValueError, match="labels must have shape"):
        Objects(torch.zeros(2, 4), torch.tensor([1]))
    with pytest.raises(ValueError, match="masks must have shape"):
        Objects(torch.zeros(2, 4), torch.tensor([1, 1]), torch.zeros(1, 4, 4))


BOX = [2.4, 1.0, 5.6, 4.2]


def crop(values: torch.Tensor) -> torch.Tensor:
    """As peers do it: the map within the rounded box, zeros elsewhere."""
    cropped = torch.zeros_like(values)
    x1, y1, x2, y2 = (round(side) for side in BOX)
    cropped[:, y1:y2, x1:x2] = values[:, y1:y2, x1:x2]
    return cropped


def test_a_map_cropped_to_its_box_is_refused_by_name() -> None:
    whole = smooth(1, 8, 9)
    small_case([BOX], whole)
    with pytest.raises(ValueError, match=r"cropped to their box.*allow_cropped"):
        small_case([BOX], crop(whole))
    assert torch.equal(small_case([BOX], crop(whole), allow_cropped=True).maps, crop(whole))


@pytest.mark.parametrize(
    "maps",
    [
        torch.zeros(1, 8, 9),  # nothing found is no crop
        box_masks(torch.tensor([BOX]), (8, 9)).float() - 0.1,  # negative outside
        crop(smooth(1, 8, 9)).index_put((torch.tensor(0), torch.tensor(7), torch.tensor(0)), torch.tensor(1e-6)),
    ],
)
def test_a_whole_map_is_not_refused(maps: torch.Tensor) -> None:
    refuse_cropped(maps, torch.tensor([BOX]))


def test_a_box_around_the_whole_image_leaves_nothing_to_crop() -> None:
    refuse_cropped(smooth(1, 8, 9), torch.tensor([[-1.0, 0.0, 9.0, 8.5]]))


def test_one_cropped_map_among_whole_ones_is_named() -> None:
    maps = torch.cat([smooth(1, 8, 9), crop(smooth(1, 8, 9))])
    with pytest.raises(ValueError, match="number 1 is"):
        refuse_cropped(maps, torch.tensor([BOX, BOX]))


def test_box_masks_are_the_pixels_whose_centres_lie_inside() -> None:
    boxes = torch.tensor([[0.0, 0.0, 3.0, 2.0], [0.5, 0.4, 2.5, 1.6], [2.0, 2.0, 2.0, 2.0], [-5.0, -5.0, 50.0, 50.0]])
    masks = box_masks(boxes, (4, 5))
    for box, mask in zip(boxes.tolist(), masks):
        for y in range(4):
            for x in range(5):
                inside = box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]
                assert bool(mask[y, x]) == inside


def test_the_heat_is_the_positive_part_over_its_maximum() -> None:
    one = explanation(0)
    np.testing.assert_allclose(heatmaps(torch.from_numpy(one.values)[None])[0].numpy(), one.heatmap, atol=1e-7)
    assert not heatmaps(-noise(1, 4, 4)).any()


def test_references_are_the_detections_or_their_objects() -> None:
    objects = Objects(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([7]))
    case = scene_case(objects=objects, object_of=torch.tensor([-1, 0]))
    boxes, labels, known = case.reference("object")
    assert known.tolist() == [False, True]
    assert boxes[1].tolist() == [1, 2, 3, 4]
    assert int(labels[1]) == 7
    assert torch.equal(case.reference("detection")[0], case.detections.boxes)
    assert not scene_case().reference("object")[2].any()
    with pytest.raises(ValueError, match="reference must be one of"):
        case.reference("neither")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_what_it_gives(name: str) -> None:
    measure = MEASURES[name]
    assert measure.name == name
    for quantity in measure.quantities.values():
        assert quantity.low < quantity.high
        if isinstance(quantity.chance, str):
            assert measure.quantities[quantity.chance].better is None
        elif quantity.chance is not None:
            assert quantity.low <= quantity.chance <= quantity.high
    names = [quantity for other in MEASURES.values() for quantity in other.quantities]
    assert len(names) == len(set(names)), "a quantity belongs to one measure"


FEW: dict[str, dict[str, Any]] = {
    "insertion_deletion": {"steps": 2},
    "infidelity": {"n_patches": 3},
    "road": {"fractions": (0.5,)},
    "stability": {"n_repeats": 1},
    "attack_agreement": {"steps": 1},
    "randomisation": {"n_stages": 1},
}


CHEAP = [pytest.param(name, marks=pytest.mark.slow) if name == "attack_agreement" else name for name in MEASURES]


@pytest.mark.parametrize("name", CHEAP)
def test_every_measure_gives_a_number_a_detection_within_its_range(name: str) -> None:
    height, width = scene_image().shape[:2]
    masks = torch.stack([box_masks(scene_detections().boxes, (height, width))[i] for i in (0, 1)])
    measure = MEASURES[name](**FEW.get(name, {}))
    full = scene_case(
        objects=Objects(scene_detections().boxes, scene_detections().labels, masks),
        object_of=torch.tensor([0, 1]),
        evidence=masks,
        causes=[masks, masks],
        redo=lambda detector, image, seed: smooth(2, height, width, seed=seed + 1),
    )
    found = measure(full)
    assert list(found) == list(measure.quantities)
    for key, values in found.items():
        quantity = measure.quantities[key]
        assert values.shape == (2,)
        assert values.dtype == torch.float32
        assert bool(((values >= quantity.low) & (values <= quantity.high)).all()), (key, values)
    nothing_known = measure(scene_case())
    assert {key: values.shape for key, values in nothing_known.items()} == dict.fromkeys(found, (2,))
    nobody = Case(scenes_detector(), scene_image(), scene_detections()[:0], torch.zeros(0, height, width))
    assert all(values.shape == (0,) for values in measure(nobody).values())


@pytest.mark.parametrize("name", CHEAP)
def test_each_detection_is_measured_by_itself(name: str) -> None:
    """Both at once, in the other order, or one alone: the same numbers."""
    found = scene_detections()
    masks = box_masks(found.boxes, (160, 160))
    maps = smooth(2, 160, 160)
    again = smooth(2, 160, 160, seed=3)

    def numbers(places: list[int]) -> dict[str, torch.Tensor]:
        case = Case(
            scenes_detector(),
            scene_image(),
            found[places],
            maps[places],
            objects=Objects(found.boxes, found.labels, masks),
            object_of=torch.tensor(places),
            evidence=masks[places],
            causes=[masks] * len(places),
            redo=lambda detector, image, seed: again[places],
        )
        return MEASURES[name](**FEW.get(name, {}))(case)

    both, swapped, alone = numbers([0, 1]), numbers([1, 0]), numbers([1])
    for key, values in both.items():
        torch.testing.assert_close(swapped[key].flip(0), values, atol=1e-4, rtol=1e-4, equal_nan=True)
        torch.testing.assert_close(alone[key], values[1:], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_large_maps_are_ranked_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = smooth(5, 12, 12), smooth(5, 12, 12, seed=1)
    masks = second > 0
    expected = rank_correlation(first, second), roc_area(first, masks), gini(first), pixel_ranks(first)
    monkeypatch.setattr(ranking_module, "PIXELS_AT_ONCE", 300)
    found = rank_correlation(first, second), roc_area(first, masks), gini(first), pixel_ranks(first)
    for one, other in zip(expected, found):
        assert torch.equal(one, other)
    sizes = in_parts(lambda part: torch.full((1,), len(part)), first)
    assert sizes.tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("insertion_deletion", {"steps": 0}, "steps"),
        ("insertion_deletion", {"score": "best"}, "score must be one of"),
        ("insertion_deletion", {"batch_size": 0}, "batch_size"),
        ("road", {"fractions": ()}, "fractions"),
        ("road", {"fractions": (0.5, 1.0)}, "fractions"),
        ("road", {"noise": -1}, "noise"),
        ("average_drop", {"score": "best"}, "score must be one of"),
        ("infidelity", {"n_patches": 0}, "n_patches"),
        ("infidelity", {"smallest": 0.6}, "smallest <= largest"),
        ("visual_accuracy", {"thresholds": (1.0,)}, "thresholds"),
        ("stability", {"n_repeats": 0}, "n_repeats"),
        ("stability", {"noise": 2}, "noise"),
        ("attack_agreement", {"steps": 0}, "steps"),
        ("attack_agreement", {"norm": "l1"}, "norm"),
        ("attack_agreement", {"epsilon": -1.0}, "epsilon"),
        ("randomisation", {"n_stages": 0}, "n_stages"),
        ("causes_found", {"threshold": 0.5}, "threshold"),
    ],
)
def test_wrong_settings_are_refused_at_once(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MEASURES[name](**settings)
