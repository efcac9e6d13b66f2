"""How often the host asks the device for a number and waits: once in a round of questions, a few times in a draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detxai.engine.masking.paths import Paths, follow
from detxai.engine.masking.regions import random_partitions, split_regions

READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.repeat_interleave.Tensor", "aten.masked_select")


class Waits(TorchDispatchMode):
    """Counts what would wait for a device: numbers read from tensors, and results whose size depends on them."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        chosen = args[1] if str(func).startswith("aten.index") and len(args) > 1 else None
        by_truth = isinstance(chosen, list) and any(i is not None and i.dtype == torch.bool for i in chosen)
        self.n += str(func).startswith(READS) or by_truth
        return func(*args, **(kwargs or {}))


def test_what_waits_is_counted() -> None:
    values = torch.arange(3)
    with Waits() as waits:
        int(values[0]), bool(values.any()), values.nonzero(), values[values > 1], values.repeat_interleave(values)
        values + 1, values[values], values.repeat_interleave(2)
    assert waits.n == 5


def drawn() -> Paths:
    numbers = torch.arange(4)
    partitions = random_partitions((30, 40), torch.tensor([[5.0, 5, 30, 25]]).expand(4, -1), numbers)
    maps = torch.rand(4, 30, 40, generator=torch.Generator().manual_seed(0))
    partitions = split_regions(partitions, maps, 6)
    return Paths.draw(partitions, numbers, torch.zeros_like(numbers), torch.zeros_like(numbers))


def test_partitions_and_orders_are_made_in_one_wait_for_each_time_that_regions_are_counted() -> None:
    with Waits() as waits:
        drawn()
    assert waits.n == 3  # the grids, then cut twice


def test_a_round_of_questions_waits_once() -> None:
    paths, rounds = drawn(), []

    def score(these: Paths, path: Tensor, shown: Tensor) -> Tensor:
        rounds.append(len(path))
        return these.masks(path, shown)[:, 10:12, 10:12].mean((1, 2))

    with Waits() as waits:
        found = follow(paths, score, torch.zeros(8), torch.ones(8), torch.full((8,), 0.1), explore=0.1)
        found.densities()
    assert len(rounds) > 4
    assert waits.n <= len(rounds) + 1  # how many questions are open; the last time, none
