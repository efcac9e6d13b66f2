"""ODAM and SSGrad-CAM++ are their formulas, with the gradients of a plain hook on the model itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from plain_hooks import OneStage, TwoStages, beside, traced_back
from torch import Tensor

import detxai
from detxai.methods import ODAM, LayerCAM, SSGradCAMPlusPlus
from detxai.methods.box_attributes import SIDES
from detxai.scenes import generate
from detxai.targets import BoxSideTarget

ATTRIBUTES = ("score", *SIDES)


@pytest.fixture(scope="module", params=[TwoStages, OneStage])
def case(request: pytest.FixtureRequest) -> Any:
    return request.param()


def inner_boxes(case: Any, detector: Any) -> detxai.Detections:
    """Those of which no side is cut off at the edge of the image."""
    found = detector.detect(case.image, 0.02)
    height, width = case.image.shape[1:]
    inside = (found.boxes[:, :2] > 1).all(1) & (found.boxes[:, 2] < width - 1) & (found.boxes[:, 3] < height - 1)
    assert bool(inside.any())
    return found[inside.nonzero().flatten()[:2]]


def attribute_of(answer: Any, attribute: str, box: Tensor, label: int) -> Tensor:
    return answer.score(box, label) if attribute == "score" else answer.side(box, label, SIDES.index(attribute))


def level_of_the_box(case: Any, attribute: str, box: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """The one level whose features the attribute reads where the others are held, and its gradient."""
    pairs = traced_back(case, lambda answer: attribute_of(answer, attribute, box, label), hold=True)
    (pair,) = [(level, gradient) for level, gradient in pairs if bool(gradient.any())]
    return pair


def odam(level: Tensor, gradient: Tensor, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Zhao et al., written out place by place."""
    cells = np.zeros(level.shape[1:])
    for row, column in np.ndindex(*cells.shape):
        cells[row, column] = max(0.0, float(gradient[:, row, column] @ level[:, row, column]))
    return cells


def ssgrad(level: Tensor, gradient: Tensor, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Yamauchi, written out channel by channel."""
    cells = np.zeros(level.shape[1:])
    for features, g in zip(level.numpy(), gradient.numpy(), strict=True):
        in_box = features[mask].sum()
        weight = sum(v**2 / (2 * v**2 + in_box * v**3) * max(v, 0) for v in g[mask] if v != 0)
        cells += weight * np.abs(g) / max(np.abs(g).max(), 1e-300) * features
    return np.maximum(cells, 0)


def cells_in(box: Tensor, geometry: Any, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which cells' own places, in pixels of the image, lie in the box."""
    mask = np.zeros(shape, dtype=bool)
    for row, column in np.ndindex(*shape):
        strides = [side / cells for side, cells in zip(geometry.input_size, shape)]
        place = torch.tensor([(column + geometry.cell_centre) * strides[1], (row + geometry.cell_centre) * strides[0]])
        x, y = geometry.boxes_to_image(place.repeat(2))[:2].tolist()
        mask[row, column] = box[0] <= x <= box[2] and box[1] <= y <= box[3]
    return mask


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize(("method", "formula"), [(ODAM, odam), (SSGradCAMPlusPlus, ssgrad)])
def test_each_attribute_is_the_formula_with_a_plain_hooks_gradient(
    case: Any, method: Any, formula: Any, attribute: str
) -> None:
    detector = case.wrap(case.model)
    found = inner_boxes(case, detector)
    found = beside(found) if attribute == "score" else found
    (geometry,) = detector.prepare(case.image).geometries
    for i, explanation in enumerate(method(attribute=attribute)(detector, case.image, found)):
        level, gradient = level_of_the_box(case, attribute, found.boxes[i].double(), int(found.labels[i]))
        mask = cells_in(found.boxes[i], geometry, (level.shape[1], level.shape[2]))
        assert mask.any()
        expected = geometry.map_to_image(torch.from_numpy(formula(level, gradient, mask))).numpy()
        np.testing.assert_allclose(explanation.values, expected, atol=1e-5 * max(np.abs(expected).max(), 1e-9))
        assert list(explanation.details["levels"]) == [attribute]


@pytest.mark.parametrize("method", [ODAM, SSGradCAMPlusPlus])
def test_the_combined_map_is_the_largest_of_the_scaled_ones(case: Any, method: Any) -> None:
    detector = case.wrap(case.model)
    found = inner_boxes(case, detector)
    apart = [method(attribute=attribute)(detector, case.image, found) for attribute in ATTRIBUTES]
    for combined, *alone in zip(method(attribute="combined")(detector, case.image, found), *apart, strict=True):
        maps = [each.values.astype(np.float64) for each in alone]
        scaled = [(m - m.min()) / (m.max() - m.min()) if m.max() > m.min() else 0 * m for m in maps]
        np.testing.assert_allclose(combined.values, np.max(scaled, axis=0), atol=1e-5)
        assert list(combined.details["levels"]) == list(ATTRIBUTES)


def test_a_side_is_the_target_of_that_side(case: Any) -> None:
    detector = case.wrap(case.model)
    found = inner_boxes(case, detector)
    for side in SIDES:
        named = ODAM(attribute=side)(detector, case.image, found)
        asked = ODAM(target=partial(BoxSideTarget, side=side))(detector, case.image, found)
        for one, other in zip(named, asked, strict=True):
            np.testing.assert_array_equal(one.values, other.values)


def test_a_side_at_the_edge_of_the_image_comes_from_nowhere() -> None:
    case = OneStage()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)
    at_edge = found[(found.boxes[:, 0] <= 0).nonzero().flatten()[:1]]
    assert len(at_edge) == 1
    (explanation,) = ODAM(attribute="left")(detector, case.image, at_edge)
    assert not explanation.values.any()


def test_left_and_right_come_from_their_own_sides() -> None:
    """A trained YOLO's scenes: the map of the left side lies left of that of the right side, of the top above."""
    detector = detxai.wrap("scenes-yolo")
    left_of, above = [], []
    for seed in range(3):
        image = generate(seed, "local").image
        found = detector.detect(image, 0.5)
        middles = {}
        for side in SIDES:
            maps = [e.values for e in ODAM(attribute=side)(detector, image, found)]
            grids = np.indices(maps[0].shape)
            axis = 1 if side in ("left", "right") else 0
            middles[side] = [float((m * grids[axis]).sum() / m.sum()) if m.any() else np.nan for m in maps]
        left_of += [left < right for left, right in zip(middles["left"], middles["right"])]
        above += [top < bottom for top, bottom in zip(middles["top"], middles["bottom"])]
    assert len(left_of) >= 5
    assert np.mean(left_of) > 0.8
    assert np.mean(above) > 0.8


def test_the_model_comes_back_and_is_passed_once(case: Any) -> None:
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:3]
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    runs: list[int] = []
    first = next(module for module in case.model.modules() if isinstance(module, torch.nn.Conv2d))
    handle = first.register_forward_hook(lambda module, given, output: runs.append(len(output)))
    try:
        LayerCAM()(detector, case.image, found)
        once = sum(runs)
        for method in (ODAM(attribute="combined"), SSGradCAMPlusPlus(attribute="combined")):
            runs.clear()
            assert len(method(detector, case.image, found)) == len(found)
            assert sum(runs) == once
    finally:
        handle.remove()
    assert all(torch.equal(before[name], value) for name, value in case.model.state_dict().items())
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert not any(module._forward_hooks for module in case.model.modules())
    assert ODAM()(detector, case.image, detxai.Detections([], [], [])) == []


@pytest.mark.parametrize("method", [ODAM, SSGradCAMPlusPlus])
def test_bad_settings_are_refused_by_name(method: Any) -> None:
    with pytest.raises(ValueError, match=r"attribute must be one of .*'combined'.*got 'middle'"):
        method(attribute="middle")
    with pytest.raises(TypeError, match="target must be callable"):
        method(target=3)
    nothing = detxai.wrap(lambda images: [])
    with pytest.raises(TypeError, match="d_rise needs none"):
        method()(nothing, np.zeros((9, 9, 3), np.uint8), detxai.Detections([[0, 0, 4, 4]], [0.5], [1]))
