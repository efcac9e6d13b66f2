"""Random subsets: exactly k, with gradients, and by the Shapley kernel."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detxai.concepts.learned.subsets import (
    choice_log_chances,
    drawn_choice,
    exact_subset,
    kernel_subsets,
    relaxed_subset,
    shapley_subsets,
)


@given(n=st.integers(2, 12), seed=st.integers(0, 99), temperature=st.floats(0.1, 2.0), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_relaxed_choice_sums_to_k_and_an_exact_one_has_k(
    n: int, seed: int, temperature: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n))
    dice = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, n, generator=dice, requires_grad=True)
    relaxed = relaxed_subset(logits, k, temperature, dice)
    assert torch.allclose(relaxed.sum(-1), torch.full((3,), float(k)), atol=1e-4)
    exact = exact_subset(relaxed, k)
    assert torch.allclose(exact.detach().sum(-1), torch.full((3,), float(k)), atol=1e-5)
    assert ((exact.detach() - exact.detach().round()).abs() < 1e-5).all()
    assert len(set(exact.detach().round().flatten().tolist()) - {0.0, 1.0}) == 0


def test_gradients_flow_through_the_exact_choice_and_point_to_what_is_rewarded() -> None:
    logits = torch.zeros(200, 5, requires_grad=True)
    chosen = exact_subset(relaxed_subset(logits, 2, 0.5, torch.Generator().manual_seed(0)), 2)
    chosen[:, 3].sum().backward()
    assert logits.grad is not None
    mean = logits.grad.mean(0)
    assert mean[3] > 0
    assert (mean[[0, 1, 2, 4]] < 0).all()


def test_what_cannot_be_chosen_is_not() -> None:
    logits = torch.tensor([0.0, -torch.inf, 0.0, 0.0]).expand(50, 4)
    dice = torch.Generator().manual_seed(0)
    assert float(exact_subset(relaxed_subset(logits, 3, 0.5, dice), 3)[:, 1].max()) == 0
    assert not (drawn_choice(logits, 3, dice) == 1).any()


def test_the_chances_of_all_choices_sum_to_one_and_are_those_that_are_drawn() -> None:
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0])
    ordered = list(itertools.permutations(range(4), 2))
    chances = choice_log_chances(logits.expand(len(ordered), 4), torch.tensor(ordered)).exp()
    assert math.isclose(float(chances.sum()), 1.0, abs_tol=1e-6)
    drawn = drawn_choice(logits.expand(40_000, 4), 2, torch.Generator().manual_seed(1))
    for pair, chance in zip(ordered, chances.tolist(), strict=True):
        share = float((drawn == torch.tensor(pair)).all(1).float().mean())
        assert abs(share - chance) < 5 * math.sqrt(chance / 40_000), pair  # five standard errors


def test_kernel_subsets_have_the_kernels_sizes_and_every_region_alike() -> None:
    n, draws = 6, 30_000
    shown = kernel_subsets(torch.full((draws,), n), n + 2, torch.arange(draws), seed=3)
    assert not shown[:, n:].any()
    sizes = shown.sum(1)
    weights = torch.tensor([1 / (s * (n - s)) for s in range(1, n)])
    expected = weights / weights.sum()
    for size, chance in zip(range(1, n), expected.tolist(), strict=True):
        share = float((sizes == size).float().mean())
        assert abs(share - chance) < 5 * math.sqrt(chance / draws), size
    shares = shown[:, :n].float().mean(0)
    assert (shares - 0.5).abs().max() < 5 * math.sqrt(0.25 / draws)


def test_least_squares_over_the_subsets_gives_the_shapley_values() -> None:
    """Of a game with an interaction, whose Shapley values are found by all orders."""

    def value(shown: torch.Tensor) -> torch.Tensor:
        return shown[..., 0] * shown[..., 1] + 0.5 * shown[..., 2] + 0.2 * shown[..., 0] * shown[..., 3]

    n, draws = 4, 20_000
    exact = torch.zeros(n)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        seen = torch.zeros(n)
        for region in order:
            before = value(seen)
            seen[region] = 1
            exact[region] += (value(seen) - before) / len(orders)
    shown = kernel_subsets(torch.full((draws,), n), n, torch.arange(draws), seed=0).float()
    signs = 2 * shown - 1
    answers = value(shown) - value(1 - shown)
    total = float(value(torch.ones(n)) - value(torch.zeros(n)))
    # the sum is known: the last amount is what the others leave of it
    free = signs[:, :-1] - signs[:, -1:]
    found = torch.linalg.lstsq(free, (answers - total * signs[:, -1])[:, None]).solution[:, 0]
    assert torch.allclose(torch.cat([found, (total - found.sum())[None]]), exact, atol=0.02)


def test_subsets_depend_on_their_number_alone() -> None:
    box = torch.tensor([10.0, 12.0, 40.0, 50.0])
    masks = shapley_subsets((64, 80), box, torch.arange(6), seed=4)
    assert masks.equal(torch.cat([shapley_subsets((64, 80), box, torch.tensor([i]), seed=4) for i in range(6)]))
    assert all(0 < int(mask.sum()) < mask.numel() for mask in masks)
    assert not masks.equal(shapley_subsets((64, 80), box, torch.arange(6), seed=5))
