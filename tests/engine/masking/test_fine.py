"""Fine masks: random within a zone for each box, linear between corners, and slopes that find what a zone hides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from black_boxes import SIZE, WHITE, sees, share

from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.fine import MARKED, MOST_CELLS, PENALTIES, SHOWN, FineMasks, _slopes, fine_masks
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.masks import uniforms
from detxai.targets import ClassScoreTarget


def blob(top: int, left: int, height: int, width: int) -> torch.Tensor:
    """A map that is high in one rectangle, low everywhere else."""
    map_ = torch.full(SIZE, 0.5 * MARKED)
    map_[top : top + height, left : left + width] = 1
    return map_


def test_masks_vary_within_their_boxs_zone_alone() -> None:
    maps = torch.stack([blob(4, 6, 20, 30), blob(20, 30, 24, 24), torch.zeros(SIZE)])
    masks = FineMasks.over(maps, 400, seed=3)
    drawn = masks(torch.arange(1200)).unflatten(0, (3, 400))
    for one, map_ in zip(drawn, maps):
        inside = map_ == 1
        assert (one[:, ~inside] == 1).all()
        if inside.any():
            assert one.min() >= 0
            assert one[:, inside].mean() == pytest.approx(SHOWN, abs=0.02)
            assert one[:, inside].std(0).min() > 0.15
    assert (drawn[2] == 1).all()  # nothing was found: nothing is looked into


def test_a_mask_is_bilinear_between_random_corners() -> None:
    """Against the definition, pixel by pixel."""
    masks = FineMasks.over(torch.stack([blob(0, 0, 48, 64), blob(10, 10, 20, 20)]), 50, seed=1)
    n_corners = int(np.ceil(64 / 48 * MOST_CELLS)) + 2
    for number in (3, 70):
        cell = float(masks.cells[number // 50])
        uniform = uniforms(1, torch.tensor([number]), torch.arange(n_corners**2 + 2))[0].float().numpy()
        corners = (uniform[2:] < SHOWN).reshape(n_corners, n_corners)
        (drawn,) = masks(torch.tensor([number]))
        for row, column in ((12, 14), (15, 21), (29, 29), (20, 11)):
            y, x = row / cell + uniform[0], column / cell + uniform[1]
            expected = sum(
                corners[i, j] * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                for i in range(n_corners)
                for j in range(n_corners)
            )
            assert float(drawn[row, column]) == pytest.approx(float(expected), abs=1e-5)


def test_a_mask_is_its_number_whatever_the_batch_and_the_step() -> None:
    masks = FineMasks.over(torch.stack([blob(4, 6, 20, 30), blob(20, 30, 24, 24)]), 9, seed=5)
    whole = masks(torch.arange(18))
    torch.testing.assert_close(masks(torch.tensor([11, 2])), whole[[11, 2]])
    torch.testing.assert_close(masks(torch.arange(18), 3), whole[:, ::3, ::3])


def test_slopes_are_those_of_the_ridge_that_predicts_best_what_was_left_out() -> None:
    """Against primal ridge regression in float64, each row left out in turn."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(14, 40, generator=generator)
    scores = features[:, 3] - 0.5 * features[:, 20] + 0.05 * torch.rand(14, generator=generator)
    x, y = features.double().numpy(), scores.double().numpy()
    x, y = x - x.mean(0), y - y.mean()
    scale = np.square(x).sum() / len(x)

    def ridge(rows: np.ndarray, penalty: float) -> np.ndarray:
        return np.linalg.solve(x[rows].T @ x[rows] + penalty * scale * np.eye(40), x[rows].T @ y[rows])

    every = np.arange(14)
    errors = [sum((y[i] - x[i] @ ridge(every[every != i], penalty)) ** 2 for i in every) for penalty in PENALTIES]
    expected = ridge(every, PENALTIES[int(np.argmin(errors))])
    np.testing.assert_allclose(_slopes(features, scores).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_two_boxes_find_their_own_causes() -> None:
    """Each in a corner of a zone that is several times as wide, in one run."""
    detector = sees(share(20, 30, 6, 6), share(8, 10, 6, 6))
    found = detector.detect(WHITE, 0.0)
    canvas = Canvas.with_fills(detector, WHITE, ["black"])
    coarse = torch.stack([blob(16, 18, 24, 24), blob(4, 4, 24, 24)])
    asked = fine_masks(ViewScorer(detector, canvas, ClassScoreTarget.of(found), 32), coarse, 80, 0)
    assert asked.shape == (2, *SIZE)
    assert asked.amax((1, 2)).tolist() == pytest.approx([1, 1])
    for one, zone, (top, left) in zip(asked, coarse, ((20, 30), (8, 10))):
        assert not one[zone < 1].any()
        row, column = divmod(int(one.argmax()), SIZE[1])
        assert abs(row - (top + 2.5)) <= 4
        assert abs(column - (left + 2.5)) <= 4
        cause = torch.zeros(SIZE, dtype=torch.bool)
        cause[top : top + 6, left : left + 6] = True
        assert one[cause].mean() > 3 * one[(zone == 1) & ~cause].mean()


def test_nothing_found_is_nothing_to_look_into() -> None:
    detector = sees(share(20, 30, 6, 6))
    found = detector.detect(WHITE, 0.0)
    canvas = Canvas.with_fills(detector, WHITE, ["black"])
    asked = fine_masks(ViewScorer(detector, canvas, ClassScoreTarget.of(found)), torch.zeros(1, *SIZE), 20, 0)
    assert not asked.any()
