"""A place in the photo, the same place in the model's input, and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detxai import geometry as geometry_module
from detxai.geometry import Geometry, box_iou, cell_size, interpolation_matrix

side = st.integers(1, 300)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    image, resized = (draw(side), draw(side)), (draw(side), draw(side))
    offset = (draw(st.integers(0, 40)), draw(st.integers(0, 40)))
    below = (draw(st.integers(0, 40)), draw(st.integers(0, 40)))
    size = (resized[0] + offset[0] + below[0], resized[1] + offset[1] + below[1])
    return Geometry(image, size, resized, offset)


@given(geometries())
@settings(max_examples=60, deadline=None)
def test_boxes_come_back(geometry: Geometry) -> None:
    height, width = geometry.image_size
    boxes = torch.tensor([[0, 0, width, height], [width / 3, height / 4, width / 2, height / 2]], dtype=torch.float64)
    assert torch.allclose(geometry.boxes_to_image(geometry.boxes_to_input(boxes)), boxes, atol=1e-9)
    top, left = geometry.offset
    corners = [left, top, left + geometry.resized_size[1], top + geometry.resized_size[0]]
    assert torch.allclose(geometry.boxes_to_input(boxes)[0], torch.tensor(corners, dtype=torch.float64), atol=1e-9)


@given(geometries(), st.data())
@settings(max_examples=60, deadline=None)
def test_one_input_pixel_comes_back_at_its_pixel(geometry: Geometry, data: st.DataObject) -> None:
    image = [data.draw(st.integers(0, size - 1)) for size in geometry.image_size]
    at = [
        int((i + 0.5) * scale) + offset for i, scale, offset in zip(image, geometry.scale, geometry.offset, strict=True)
    ]
    planted = torch.zeros(geometry.input_size, dtype=torch.float64)
    planted[at[0], at[1]] = 1
    back = geometry.map_to_image(planted)
    assert back.shape == geometry.image_size
    if back.max() == 0:  # shrunk: this input pixel lies between two that the image reads
        assert min(geometry.scale) > 1
        return
    place = [int(i) for i in divmod(int(back.argmax()), back.shape[1])]
    for found, wanted, scale in zip(place, image, geometry.scale, strict=True):
        assert abs(found - wanted) <= max(1, 1 / scale)


@given(geometries())
@settings(max_examples=30, deadline=None)
def test_a_constant_map_stays_constant(geometry: Geometry) -> None:
    ones = torch.ones(7, 5, dtype=torch.float64)
    assert torch.allclose(geometry.map_to_image(ones), torch.ones(geometry.image_size, dtype=torch.float64))


def test_the_padding_is_cut_away() -> None:
    geometry = Geometry((10, 20), input_size=(20, 20), resized_size=(10, 20), offset=(5, 0))
    rows = torch.arange(20.0)[:, None].expand(20, 20)
    assert geometry.map_to_image(rows)[:, 0].tolist() == list(range(5, 15))


@given(geometries(), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_amounts_are_kept_and_come_back_where_they_lie(geometry: Geometry, place: int) -> None:
    """A single amount anywhere in the image's part of the input lands, whole, in the pixels that its pixel covers."""
    (top, left), (height, width) = geometry.offset, geometry.resized_size
    row, column = place % height, (place // 7) % width
    amounts = torch.zeros(geometry.input_size, dtype=torch.float64)
    amounts[top + row, left + column] = 3.0
    on_image = geometry.amounts_to_image(amounts)
    assert on_image.shape == geometry.image_size
    assert float(on_image.sum()) == pytest.approx(3.0)
    down, right = on_image.sum(1).nonzero().flatten(), on_image.sum(0).nonzero().flatten()
    for found, at, scale in ((down, row, geometry.scale[0]), (right, column, geometry.scale[1])):
        assert int(found.min()) >= at / scale - 1 - 1e-6
        assert int(found.max()) <= (at + 1) / scale + 1e-6


def test_amounts_in_the_padding_are_left_out() -> None:
    geometry = Geometry((2, 2), (4, 4), (2, 2), (1, 1))
    assert geometry.amounts_to_image(torch.ones(5, 4, 4)).tolist() == torch.ones(5, 2, 2).tolist()


def test_interpolation_rows_sum_to_one() -> None:
    assert torch.allclose(interpolation_matrix(50, 7, -0.4, 0.13).sum(1), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize(("size", "cells", "expected"), [(640, 20, 32), (800, 13, 64), (1333, 42, 32), (7, 7, 1)])
def test_strides_are_powers_of_two_where_they_fit(size: int, cells: int, expected: float) -> None:
    assert cell_size(size, cells) == expected


def test_iou_by_hand() -> None:
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [3, 3, 3, 3]])
    assert torch.allclose(box_iou(box, others), torch.tensor([1, 1 / 3, 0, 0]))
    empty = torch.zeros(4, requires_grad=True)
    box_iou(empty, torch.zeros(4)).backward()
    assert empty.grad is not None
    assert torch.isfinite(empty.grad).all()


def test_a_level_of_an_image_is_mapped_by_matrices_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first call was in inference mode, and the next one needs gradients."""
    built: list[int] = []
    matrix = geometry_module.interpolation_matrix

    def counted(*given: Any) -> torch.Tensor:
        built.append(1)
        return matrix(*given)

    monkeypatch.setattr(geometry_module, "interpolation_matrix", counted)
    geometry = Geometry((37, 53), (64, 96), (64, 92))
    with torch.inference_mode():
        first = geometry.map_to_image(torch.ones(2, 8, 12))
    values = torch.ones(2, 8, 12, requires_grad=True)
    second = geometry.map_to_image(values)
    assert len(built) == 2
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(second.sum(), values)
    assert float(gradient.sum()) == pytest.approx(2 * 37 * 53, rel=1e-4)
    assert geometry.map_to_image(torch.ones(8, 12, dtype=torch.float64)).dtype == torch.float64
