"""Reshape transforms: any pyramid, sign kept, usable as grad-cam's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform

from detxai.reshape import fpn_reshape_transform, yolo_reshape_transform


def _pyramid(
    widths: tuple[int, ...] = (8, 4, 6), names: tuple[str, ...] = ("0", "1", "pool")
) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {n: torch.randn(2, w, 16 // 2**i, 20 // 2**i, generator=g) for i, (n, w) in enumerate(zip(names, widths))}


def test_any_names_and_widths() -> None:
    pyramid = _pyramid(names=("p3", "p4", "top"))
    assert fpn_reshape_transform(pyramid).shape == (2, 18, 16, 20)
    assert fpn_reshape_transform(pyramid, size="coarsest").shape == (2, 18, 4, 5)
    assert fpn_reshape_transform(pyramid, size="p4").shape == (2, 18, 8, 10)


def test_the_level_whose_size_is_taken_passes_unchanged_with_its_sign() -> None:
    pyramid = _pyramid()
    assert torch.equal(fpn_reshape_transform(pyramid)[:, :8], pyramid["0"])
    assert torch.equal(fpn_reshape_transform(pyramid, absolute=True)[:, :8], pyramid["0"].abs())
    assert float(fpn_reshape_transform(pyramid).min()) < 0


def test_coarsest_and_absolute_is_grad_cams_transform() -> None:
    pyramid = _pyramid()
    ours = fpn_reshape_transform(pyramid, size="coarsest", absolute=True)
    torch.testing.assert_close(ours, fasterrcnn_reshape_transform(pyramid))


def test_lists_and_single_tensors() -> None:
    levels = list(_pyramid().values())
    assert torch.equal(yolo_reshape_transform(levels), fpn_reshape_transform(levels))
    assert yolo_reshape_transform(levels[0]) is levels[0]
    assert yolo_reshape_transform(levels, size=1).shape == (2, 18, 8, 10)


def test_gradients_pass() -> None:
    level = torch.randn(1, 3, 4, 4, requires_grad=True)
    fpn_reshape_transform({"a": level, "b": torch.randn(1, 2, 8, 8)}).sum().backward()
    assert level.grad is not None
    torch.testing.assert_close(level.grad, torch.full_like(level, 4.0))  # each cell becomes four


@pytest.mark.parametrize(
    ("output", "settings", "error", "message"),
    [
        (3, {}, TypeError, "output must be a tensor, or a dict or list of pyramid levels, got int"),
        ({}, {}, ValueError, "at least one level"),
        ({"0": [1]}, {}, TypeError, "level 0 must be a tensor, got list"),
        (torch.zeros(2, 3), {}, ValueError, r"level 0 must have shape \(B, C, h, w\), got \(2, 3\)"),
        ([torch.zeros(1, 2, 3, 3), torch.zeros(2, 2, 3, 3)], {}, ValueError, r"batch size, got \[1, 2\]"),
        (torch.zeros(1, 2, 3, 3), {"size": "huge"}, ValueError, "size must be 'finest', 'coarsest' or one of"),
    ],
)
def test_bad_input(output: Any, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fpn_reshape_transform(output, **settings)
