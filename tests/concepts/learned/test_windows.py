"""The two windows of a box: they cover each pixel once, and a map drawn from them lies where it belongs."""

from __future__ import annotations

import pytest
import torch

from detxai.engine.learned.windows import GRID, Windows

SIZE = (60, 90)
BOXES = torch.tensor(
    [[20.0, 10.0, 44.0, 34.0], [-3.0, 30.0, 30.0, 70.0], [0.0, 0.0, 90.0, 60.0], [50.2, 20.7, 51.0, 21.0]]
)


@pytest.fixture(scope="module")
def windows() -> Windows:
    return Windows(SIZE, BOXES)


def cell_areas(windows: Windows) -> torch.Tensor:
    corners = windows.corners
    return ((corners[..., 2:] - corners[..., :2]).prod(-1) / GRID**2)[..., None, None]


def test_both_windows_together_hold_every_pixel_once(windows: Windows) -> None:
    """The area that any mask shows, added up over the cells, is the mask's own."""
    masks = (torch.rand(len(BOXES), *SIZE, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    covered = windows.coverage(masks, torch.arange(len(BOXES)))
    assert torch.allclose((covered * cell_areas(windows)).sum((1, 2, 3)), masks.sum((1, 2)), rtol=1e-4)


def test_a_density_and_the_coverage_of_a_mask_say_the_same(windows: Windows) -> None:
    """Even amounts: what a mask covers of the cells is what the map holds inside it."""
    even = torch.ones(len(BOXES), 2, GRID, GRID) * cell_areas(windows)
    density = windows.density(even)
    assert torch.allclose(density, torch.ones_like(density), atol=1e-4)


def test_an_amount_in_a_cell_peaks_in_that_cell(windows: Windows) -> None:
    amounts = torch.zeros(len(BOXES), 2, GRID, GRID)
    amounts[0, 0, 5, 17] = 1.0
    density = windows.density(amounts)[0]
    row, column = divmod(int(density.argmax()), SIZE[1])
    x1, y1, x2, y2 = windows.corners[0, 0].tolist()
    assert abs(row + 0.5 - (y1 + (y2 - y1) * 5.5 / GRID)) <= 1
    assert abs(column + 0.5 - (x1 + (x2 - x1) * 17.5 / GRID)) <= 1


def test_crops_are_means_of_what_the_cells_cover(windows: Windows) -> None:
    """A ramp across the image: each cell has the ramp's value at its centre."""
    ramp = (torch.arange(SIZE[1]) + 0.5).expand(1, *SIZE)
    crops = windows.crops(ramp, GRID)
    x1, _, x2, _ = windows.corners[2, 1].tolist()
    centres = x1 + (x2 - x1) * (torch.arange(GRID) + 0.5) / GRID
    assert torch.allclose(crops[2, 1, 0, 3], centres, atol=0.5)
    assert torch.allclose(crops[0, 0, 0].mean(), windows.corners[0, 0, [0, 2]].mean(), atol=0.5)


def test_the_prior_is_the_hill_over_the_box(windows: Windows) -> None:
    prior = windows.prior()
    assert (prior >= 0).all()
    assert torch.allclose((prior * windows.shares()).sum((1, 2, 3)), torch.ones(len(BOXES)), atol=1e-4)
    density = windows.density(prior)[0]
    row, column = divmod(int(density.argmax()), SIZE[1])
    assert abs(row + 0.5 - 22) <= 1.5
    assert abs(column + 0.5 - 32) <= 1.5
