"""From scores under masks to maps: slow loops, closed forms, honest errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detxai.engine.masking.soft.estimating import Normalisation, VarianceReduction, estimate
from detxai.engine.masking.soft.lattice import Lattice
from detxai.engine.masking.soft.linear_model import LinearModel
from detxai.engine.masking.soft.masks import RiseMasks

SIZE, GRID = (24, 32), (3, 4)


def linear_scores(masks: RiseMasks, n: int, weight: Tensor) -> Tensor:
    """(1, n): the share of a weighted image that each mask shows."""
    return (masks(torch.arange(n)).double() * weight).sum((1, 2))[None]


def expected_slopes(masks: RiseMasks, weight: Tensor, lattice: Lattice) -> Tensor:
    """Cov(sum of a M, M(x)) / Var(M(x)) in closed form."""
    vertical, horizontal = masks.kernels
    covariance = vertical @ weight @ horizontal
    slope = covariance / (vertical.diagonal()[:, None] * horizontal.diagonal())
    return slope[lattice.rows][:, lattice.columns]


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(SIZE, generator=generator, dtype=torch.float64)
    patch = torch.zeros(SIZE, dtype=torch.float64)
    patch[8:14, 20:28] = 1
    return {"every pixel": spread / spread.sum(), "one patch": patch / patch.sum()}


def test_the_linear_model_is_the_same_on_two_threads() -> None:
    lattice = Lattice(RiseMasks((160, 240), (12, 18)))
    scores = torch.rand(5, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    threads, models = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            models.append(LinearModel.fit(lattice, torch.arange(400), scores))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(models[0].weights, models[1].weights, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("which", ["every pixel", "one patch"])
@pytest.mark.parametrize("reduction", ["control_variate", "none"])
def test_a_linear_detector_has_the_slopes_that_theory_says(which: str, reduction: VarianceReduction) -> None:
    masks = RiseMasks(SIZE, GRID, seed=4)
    lattice, weight = Lattice(masks), weights()[which]
    truth = expected_slopes(masks, weight, lattice)
    found = estimate(linear_scores(masks, 3000, weight), lattice, variance_reduction=reduction)
    error = (found.values[0] - truth).abs()
    assert (error <= 4.5 * found.standard_error[0]).all()
    assert error.max() < (0.02 if reduction == "control_variate" else 0.1) * truth.max()


@pytest.mark.parametrize(
    ("which", "reduction"),
    [
        ("every pixel", "control_variate"),
        ("every pixel", "none"),
        ("one patch", "control_variate"),
        ("one patch", "none"),
        ("both eyes", "control_variate"),
        pytest.param("both eyes", "none", marks=pytest.mark.slow),
    ],
)
def test_the_bars_cover_the_truth_as_often_as_they_say(which: str, reduction: VarianceReduction) -> None:
    """200 seeds; "both eyes" scores only what two places show at once, so it is far from linear."""
    seeds, n = 200, 300

    def scores(masks: RiseMasks, n: int) -> Tensor:
        if which != "both eyes":
            return linear_scores(masks, n, weights()[which])
        eyes = masks(torch.arange(n), torch.tensor([6, 15]), torch.tensor([9, 22])).double()
        return (eyes[:, 0, 0] * eyes[:, 1, 1])[None]

    masks = RiseMasks(SIZE, GRID, seed=10**6)
    lattice = Lattice(masks, points=2)
    if which == "both eyes":  # what 400,000 masks say; their own error is a fortieth of what is tested
        truth = estimate(scores(masks, 400_000), lattice).values[0]
    else:
        truth = expected_slopes(masks, weights()[which], lattice)
    covered = []
    for seed in range(seeds):
        some = RiseMasks(SIZE, GRID, seed=seed)
        found = estimate(scores(some, n), Lattice(some, points=2), variance_reduction=reduction)
        covered.append(((found.values[0] - truth).abs() <= 1.96 * found.standard_error[0]).double())
    share = torch.stack(covered).mean(0)
    assert 0.90 <= share.mean() <= 0.99
    assert share.min() > 0.86  # each pixel by itself: 0.95 less the spread of the least of many


def test_the_control_variate_has_no_bias_and_both_have_less_error() -> None:
    weight = weights()["one patch"]
    truth = expected_slopes(RiseMasks(SIZE, GRID), weight, Lattice(RiseMasks(SIZE, GRID)))
    errors: dict[VarianceReduction, list[Tensor]] = {"control_variate": [], "none": [], "regression": []}
    for seed in range(100):
        lattice = Lattice(RiseMasks(SIZE, GRID, seed=seed))
        scores = linear_scores(lattice.masks, 100, weight)
        for reduction, kept in errors.items():
            kept.append(estimate(scores, lattice, variance_reduction=reduction).values[0].double() - truth)
    with_, without, regression = (torch.stack(errors[name]) for name in ("control_variate", "none", "regression"))
    assert with_.square().mean() < 0.1 * without.square().mean()
    assert with_.mean(0).square().mean() < 3 * with_.var(0).mean() / 100  # the mean error is what chance leaves of it
    assert regression.square().mean() < 1.1 * with_.square().mean()


@pytest.mark.parametrize("kind", ["centred", "sum", "density", "expectation"])
def test_published_normalisations_equal_a_slow_loop(kind: Normalisation) -> None:
    masks = RiseMasks(SIZE, GRID, seed=6, p=0.4)
    lattice, n = Lattice(masks), 600
    scores = torch.rand(2, n, generator=torch.Generator().manual_seed(1))
    total = torch.zeros(2, *SIZE, dtype=torch.float64)
    shown = torch.zeros(SIZE, dtype=torch.float64)
    for number in range(n):
        mask = masks(torch.tensor([number]))[0].double()
        score = scores[:, number].double() - (scores.double().mean(1) if kind == "centred" else 0)
        total += score[:, None, None] * mask
        shown += mask
    expected = {"centred": total / n, "sum": total, "density": total / shown, "expectation": total / (n * 0.4)}[kind]
    found = estimate(scores, lattice, kind)
    torch.testing.assert_close(
        found.values.double(), expected[:, lattice.rows][:, :, lattice.columns], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("kind", ["slope", "centred", "sum", "density", "expectation"])
def test_standard_errors_are_the_spread_over_seeds(kind: Normalisation) -> None:
    maps, errors = [], []
    for seed in range(150):
        lattice = Lattice(RiseMasks(SIZE, GRID, seed=seed), points=1)
        found = estimate(linear_scores(lattice.masks, 200, weights()["one patch"]) ** 2, lattice, kind)
        maps.append(found.values[0])
        errors.append(found.standard_error[0])
    spread, said = torch.stack(maps).std(0), torch.stack(errors).square().mean(0).sqrt()
    assert 0.85 < float((said / spread).mean()) < 1.15


def test_expected_correlation_is_that_of_two_seeds() -> None:
    weight = weights()["one patch"]

    def of_seed(seed: int, n: int) -> tuple[Tensor, float]:
        lattice = Lattice(RiseMasks(SIZE, GRID, seed=seed))
        scores = (linear_scores(lattice.masks, n, weight) > 0.6).double()  # seen or not: plenty of noise
        found = estimate(scores, lattice)
        return found.values.flatten(), float(found.expected_correlation[0])

    for n in (60, 240):
        runs = [of_seed(seed, n) for seed in range(40)]
        maps, said = torch.stack([one for one, _ in runs]), torch.tensor([one for _, one in runs])
        between = torch.corrcoef(maps)[torch.triu(torch.ones(40, 40), 1).bool()]
        assert abs(float(between.mean() - said.mean())) < 0.06, n


def test_flat_scores_give_a_flat_map_and_no_agreement() -> None:
    lattice = Lattice(RiseMasks(SIZE, GRID))
    found = estimate(torch.full((2, 64), 0.7), lattice)
    assert found.values.abs().max() < 1e-12
    assert found.standard_error.abs().max() < 1e-12
    assert torch.isfinite(found.expected_correlation).all()


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    lattice = Lattice(RiseMasks(SIZE, GRID, seed=8))
    scores = torch.rand(3, 100, generator=torch.Generator().manual_seed(2))
    whole = estimate(scores, lattice)
    monkeypatch.setattr("detxai.engine.masking.soft.lattice.CHUNK", 7)
    parts = estimate(scores, lattice)
    torch.testing.assert_close(whole.values, parts.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(whole.standard_error, parts.standard_error, rtol=1e-6, atol=1e-9)


def test_between_the_points_a_map_is_nearly_linear() -> None:
    """The lattice brought to every pixel, against the estimate at every pixel."""
    masks = RiseMasks((96, 120), (3, 4), seed=5)
    weight = torch.zeros(96, 120, dtype=torch.float64)
    weight[30:50, 70:90] = 1 / 400
    scores = linear_scores(masks, 500, weight)
    coarse, fine = Lattice(masks), Lattice(masks, points=1000)
    assert fine.rows.tolist() == list(range(96))
    dense = estimate(scores, fine).values
    torch.testing.assert_close(
        coarse.to_pixels(estimate(scores, coarse).values, (96, 120)), dense, rtol=0, atol=0.015 * float(dense.max())
    )
    assert fine.to_pixels(dense, (96, 120)).allclose(dense)


def test_a_model_predicts_what_it_can_and_knows_its_covariance() -> None:
    masks = RiseMasks(SIZE, GRID, seed=7)
    lattice, weight = Lattice(masks), weights()["every pixel"]
    numbers = torch.arange(2000)
    model = LinearModel.fit(lattice, numbers, linear_scores(masks, 2000, weight))
    new = torch.arange(2000, 6000)
    actual = (masks(new).double() * weight).sum((1, 2))
    predicted = model(new)[0]
    assert torch.corrcoef(torch.stack([predicted, actual]))[0, 1] > 0.99
    shown = masks(new, lattice.rows, lattice.columns).double().flatten(1)
    sampled = ((predicted - predicted.mean())[:, None] * (shown - shown.mean(0))).mean(0)
    known = model.covariance(lattice)[0]
    assert (sampled - known).abs().max() < 0.15 * known.abs().max()
