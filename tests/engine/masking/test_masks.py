"""RISE's masks: what they look like, what they depend on, and their exact covariance."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from detxai.engine.masking.soft.masks import RiseMasks, uniforms


@pytest.mark.parametrize(("size", "grid"), [((37, 50), (4, 5)), ((16, 16), (16, 16)), ((9, 30), (1, 7))])
def test_a_mask_is_its_cells_enlarged_and_cropped(size: tuple[int, int], grid: tuple[int, int]) -> None:
    masks = RiseMasks(size, grid, seed=3, p=0.4)
    numbers = torch.tensor([0, 5, 123456])
    made = masks(numbers)
    kept, (down, right) = masks.cells(numbers)
    cell = math.ceil(size[0] / grid[0]), math.ceil(size[1] / grid[1])
    assert masks.cell == cell
    for mask, cells, top, left in zip(made, kept, down.tolist(), right.tolist(), strict=True):
        assert 0 <= top < cell[0]
        assert 0 <= left < cell[1]
        enlarged_size = [(grid[0] + 1) * cell[0], (grid[1] + 1) * cell[1]]
        enlarged = F.interpolate(cells[None, None].float(), size=enlarged_size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(mask, enlarged[0, 0, top : top + size[0], left : left + size[1]])


def test_some_pixels_of_a_mask_are_those_of_the_whole() -> None:
    masks = RiseMasks((40, 60), (5, 5), seed=1)
    rows, columns = torch.tensor([0, 7, 39]), torch.tensor([3, 59])
    numbers = torch.arange(6)
    some = masks(numbers, rows, columns)
    torch.testing.assert_close(some, masks(numbers)[:, rows][:, :, columns], rtol=0, atol=1e-6)


def test_a_mask_depends_on_seed_and_number_alone() -> None:
    masks = RiseMasks((20, 20), (4, 4), seed=9)
    assert masks(torch.arange(50))[[17, 3]].equal(masks(torch.tensor([17, 3])))
    assert not masks(torch.arange(2))[0].equal(masks(torch.arange(2))[1])
    for other in (10, -9, 9 + 2**32, 9 + 2**40):
        assert not RiseMasks((20, 20), (4, 4), seed=other)(torch.arange(4)).equal(masks(torch.arange(4)))


def test_the_random_numbers_are_uniform_and_independent() -> None:
    drawn = uniforms(5, torch.arange(4000), torch.arange(60))
    counts = torch.histc(drawn, bins=50, min=0, max=1)
    expected = drawn.numel() / 50
    assert ((counts - expected).square() / expected).sum() < 49 + 5 * math.sqrt(2 * 49)  # chi-squared, 5 sigma
    assert drawn.min() > 0
    assert drawn.max() < 1
    for rows in (drawn.T, drawn[:60]):  # between columns; between masks
        correlation = torch.corrcoef(rows).fill_diagonal_(0) * math.sqrt(rows.shape[1])
        assert correlation.square().mean().sqrt() < 1.1
        assert correlation.abs().max() < 5.5


def test_cells_are_kept_with_probability_p_and_offsets_cover_the_cell() -> None:
    masks = RiseMasks((40, 60), (4, 4), seed=2, p=0.3)
    kept, (down, right) = masks.cells(torch.arange(5000))
    assert abs(float(kept.float().mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / kept.numel())
    assert down.unique().tolist() == list(range(10))
    assert right.unique().tolist() == list(range(15))


def test_the_covariance_is_that_of_all_masks_there_are() -> None:
    """On a grid of 2 x 2 cells there are 16 patterns and 4 offsets: few enough to list with their probabilities."""
    masks, p = RiseMasks((3, 4), (2, 2), p=0.3), 0.3
    vertical, horizontal = masks._enlarging
    mean, square = torch.zeros(12, dtype=torch.float64), torch.zeros(12, 12, dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=4):
        chance = math.prod(p if bit else 1 - p for bit in bits) / 4
        cells = torch.tensor(bits, dtype=torch.float32).reshape(2, 2)
        for down, right in itertools.product(range(2), range(2)):
            mask = (vertical[down : down + 3] @ cells @ horizontal[right : right + 4].T).double().flatten()
            mean, square = mean + chance * mask, square + chance * torch.outer(mask, mask)
    covariance = square - torch.outer(mean, mean)
    torch.testing.assert_close(mean, torch.full_like(mean, p), atol=1e-7, rtol=0)
    torch.testing.assert_close(covariance, p * (1 - p) * torch.kron(*masks.kernels), atol=1e-7, rtol=0)
