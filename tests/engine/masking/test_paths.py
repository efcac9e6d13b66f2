"""Paths against Shapley values by their definition, and against asking everywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detxai.engine.masking.paths import Paths, PathScores, follow
from detxai.engine.masking.regions import Partitions

Game = Callable[[Tensor], Tensor]  # from shown (Q, n) bool to scores (Q,)


def random_game(n: int, seed: int = 0) -> Game:
    table = torch.rand(2**n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return lambda shown: table[(shown.long() * 2 ** torch.arange(n)).sum(1)]


def by_definition(game: Game, n: int) -> Tensor:
    """(n,) sum over coalitions S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))."""
    values = torch.zeros(n, dtype=torch.float64)
    for bits in itertools.product([False, True], repeat=n):
        shown = torch.tensor(bits)
        size = int(shown.sum())
        for region in (~shown).nonzero().flatten().tolist():
            more = shown.clone()
            more[region] = True
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            values[region] += weight * (game(more[None]) - game(shown[None]))[0]
    return values


def in_stripes(n: int, copies: int = 1) -> Partitions:
    """n regions, a column of pixels each."""
    return Partitions.from_labels(torch.arange(n).expand(copies, 2, n))


def walk(game: Game, paths: Paths, tolerance: float = 0.0, **settings: float) -> PathScores:
    n = int(paths.partitions.counts.max())

    def score(these: Paths, path: Tensor, shown: Tensor) -> Tensor:
        masks = these.masks(path, shown)
        assert masks.unique().tolist() in ([0], [1], [0, 1])
        return game(masks[:, 0, :].bool())

    ends = game(torch.tensor([[False] * n, [True] * n]))
    hidden, whole = (end.expand(len(paths)) for end in ends)
    return follow(paths, score, hidden, whole, torch.full((len(paths),), tolerance), **settings)  # type: ignore[arg-type]


def every_order(n: int) -> Paths:
    orders = torch.tensor(list(itertools.permutations(range(n))))
    nothing = torch.zeros(len(orders), dtype=torch.long)
    return Paths.from_orders(in_stripes(n, len(orders)), orders, nothing, nothing)


@pytest.mark.parametrize("n", [4, 5, 6])
def test_every_order_gives_shapley_values_by_definition(n: int) -> None:
    game = random_game(n, seed=n)
    found = walk(game, every_order(n)).gains.mean(0)
    torch.testing.assert_close(found, by_definition(game, n), rtol=0, atol=1e-9)


def test_axioms() -> None:
    def game(shown: Tensor) -> Tensor:  # 0 and 1 are alike, 2 does nothing, 3 adds its own
        return (shown[:, 0] | shown[:, 1]).double() + 0.25 * shown[:, 3]

    gains = walk(game, every_order(4)).gains
    torch.testing.assert_close(
        gains.mean(0), torch.tensor([0.5, 0.5, 0, 0.25], dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(gains.sum(1), torch.full((48,), 1.25, dtype=torch.float64))  # on every single path


def drawn(n: int, n_pairs: int, seed: int = 0) -> Paths:
    nothing = torch.zeros(n_pairs, dtype=torch.long)
    return Paths.draw(in_stripes(n, n_pairs), torch.arange(n_pairs), nothing, nothing, seed)


def test_the_second_path_of_a_pair_is_the_first_one_backwards() -> None:
    paths = drawn(7, 5)
    assert torch.equal(paths.place[0::2] + paths.place[1::2], torch.full((5, 7), 6))
    assert all(sorted(row) == list(range(7)) for row in paths.place.tolist())


def test_partitions_of_different_size_share_a_batch() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 2, 2]], [[0, 1, 2, 3, 4, 5]]])
    nothing = torch.zeros(2, dtype=torch.long)
    paths = Paths.draw(Partitions.from_labels(labels), torch.arange(2), nothing, nothing)
    assert paths.counts.tolist() == [3, 3, 6, 6]
    weights = torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64)
    score = lambda these, path, shown: (these.masks(path, shown)[:, 0] * weights).sum(1)  # noqa: E731
    found = follow(paths, score, torch.zeros(4), torch.full((4,), 21.0), torch.zeros(4))
    assert found.gains.tolist() == [[3, 7, 11, 0, 0, 0]] * 2 + [[1, 2, 3, 4, 5, 6]] * 2
    assert found.densities()[0].tolist() == [[1.5, 1.5, 3.5, 3.5, 5.5, 5.5]]
    assert found.n_views.tolist() == [2, 2, 5, 5]


def test_bisection_asks_little_where_one_region_does_it_all() -> None:
    n = 64
    found = walk(lambda shown: shown[:, 17].double(), drawn(n, 4), tolerance=0.1)
    assert int(found.n_views.max()) <= 6  # log2(64), where every region would be 63
    expected = torch.zeros(n, dtype=torch.float64)
    expected[17] = 1
    torch.testing.assert_close(found.gains, expected.expand(8, -1), rtol=0, atol=1e-12)


def test_with_no_tolerance_everything_is_asked() -> None:
    game = random_game(6)
    paths = drawn(6, 3)
    found = walk(game, paths)
    assert found.n_views.tolist() == [5] * 6
    for path in range(6):
        for k in range(7):
            shown = (paths.place[path] < k)[None]
            assert float(found.scores[path, k]) == pytest.approx(float(game(shown)[0]), abs=1e-12)


def test_a_small_change_is_spread_by_area() -> None:
    labels = torch.tensor([[[0, 0, 0, 1]]])
    nothing = torch.zeros(1, dtype=torch.long)
    paths = Paths.draw(Partitions.from_labels(labels), nothing, nothing, nothing)
    found = follow(paths, random_score, torch.zeros(2), torch.full((2,), 0.04), torch.full((2,), 0.1))
    assert found.densities()[0].flatten().tolist() == pytest.approx([0.01] * 4)


def random_score(paths: Paths, path: Tensor, shown: Tensor) -> Tensor:
    raise AssertionError("nothing is to be asked")


def there_and_back(shown: Tensor) -> Tensor:
    """Region 0 raises the score as much as region 1 lowers it: on some paths bisection sees nothing of either."""
    return 0.5 + 0.4 * shown[:, 0].double() - 0.4 * shown[:, 1].double()


def test_bisection_hides_opposite_changes_and_exploring_finds_them() -> None:
    truth = torch.tensor([0.4, -0.4, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    paths = drawn(8, 3000)
    biased = walk(there_and_back, paths, tolerance=0.1).gains
    assert float(biased.abs().max()) == 0  # both ends of every path are alike
    gains = walk(there_and_back, paths, tolerance=0.1, explore=0.5, seed=3).gains.unflatten(0, (-1, 2)).mean(1)
    error = gains.std(0) / len(gains) ** 0.5
    assert bool(((gains.mean(0) - truth).abs() < 4 * error + 1e-12).all())
    assert float(error.max()) < 0.05


def test_views_run_out_where_the_change_is_smallest() -> None:
    game = lambda shown: 0.7 * shown[:, 2].double() + 0.3 * shown[:, 5].double()  # noqa: E731
    whole = walk(game, drawn(8, 4))
    part = walk(game, drawn(8, 4), max_views=20)
    assert int(whole.n_views.sum()) > 20 == int(part.n_views.sum())
    torch.testing.assert_close(part.gains.sum(1), torch.ones(8, dtype=torch.float64))
