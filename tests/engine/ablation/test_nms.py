"""Suppressing rows of boxes together gives what torchvision's nms gives for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from detxai.engine.ablation.two_stage import nms as suppression
from detxai.engine.ablation.two_stage.nms import suppress_row_by_row, suppress_together


def crowd(seed: int, rows: int = 5, n: int = 80) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that overlap in long chains, scores with ties, some boxes that take no part."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(rows, n, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(rows, n, 2, generator=generator) * 30], 2)
    scores = (torch.rand(rows, n, generator=generator) * 20).round() / 20
    return boxes, scores, torch.rand(rows, n, generator=generator) < 0.8


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_are_torchvisions_for_every_row(seed: int, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, valid = crowd(seed)
    expected = torch.zeros_like(valid)
    for row in range(len(boxes)):
        places = valid[row].nonzero().flatten()
        expected[row, places[nms(boxes[row, places], scores[row, places], threshold)]] = True
    assert torch.equal(suppress_row_by_row(boxes, scores, valid, threshold), expected)
    assert torch.equal(suppress_together(boxes, scores, valid, threshold), expected)
    monkeypatch.setattr(suppression, "PAIRS_AT_ONCE", 2 * 80**2)
    assert torch.equal(suppress_together(boxes, scores, valid, threshold), expected), "in portions of two rows"


def test_a_chain_is_settled_link_by_link() -> None:
    """Each box overlaps the next alone: every other one stays, however long the chain."""
    left = torch.arange(40.0) * 6
    boxes = torch.stack([left, torch.zeros(40), left + 10, torch.ones(40)], 1)[None]
    scores = torch.linspace(1, 0.1, 40)[None]
    stays = suppress_together(boxes, scores, torch.ones(1, 40, dtype=torch.bool), 0.2)
    assert stays[0].nonzero().flatten().tolist() == list(range(0, 40, 2))


@pytest.mark.parametrize("way", [suppress_row_by_row, suppress_together])
def test_nothing_stays_of_nothing(way: object) -> None:
    boxes, scores, valid = crowd(0)
    assert callable(way)
    assert not way(boxes, scores, torch.zeros_like(valid), 0.5).any()
    assert way(boxes[:, :0], scores[:, :0], valid[:, :0], 0.5).shape == (5, 0)
    degenerate = torch.zeros(1, 3, 4)  # no area: an IoU of 0 / 0 suppresses nothing
    assert way(degenerate, torch.tensor([[0.9, 0.8, 0.7]]), torch.ones(1, 3, dtype=torch.bool), 0.5).all()


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_rows_side_by_side_in_inference_mode() -> None:
    """Inference mode is of one thread; what is made in it cannot be written by another."""
    given = crowd(0)
    expected = suppress_together(*given, 0.5)
    with torch.inference_mode():
        boxes, scores, valid = (tensor.clone() for tensor in given)
        assert torch.equal(suppress_row_by_row(boxes, scores, valid, 0.5), expected)


@pytest.mark.usefixtures("three_threads")
def test_threads_are_kept_from_call_to_call() -> None:
    def running() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name.startswith("detxai-suppressing")}

    earlier = running()  # of other numbers of threads
    suppress_row_by_row(*crowd(0, rows=30), 0.5)
    suppress_row_by_row(*crowd(0, rows=30), 0.5)
    first = running()
    assert first
    suppress_row_by_row(*crowd(1, rows=30), 0.5)
    assert first <= running()
    assert len(running() - earlier) <= 3
