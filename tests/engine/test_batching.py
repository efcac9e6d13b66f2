"""Batches fit the memory there is; running out of it loses nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import weakref

import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor

import detxai
from detxai.engine import batching
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.batching import batch_size_for, free_memory, in_batches, is_out_of_memory


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_item_once_and_in_order(batch_size: int) -> None:
    items = torch.arange(20)
    parts = list(in_batches(items, batch_size, lambda part: part * 2))
    assert torch.equal(torch.cat([part for part, _ in parts]), items)
    assert torch.equal(torch.cat([made for _, made in parts]), items * 2)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Exception) -> None:
    """A device that takes three items at a time."""
    sizes = []

    def run(part: Tensor) -> Tensor:
        sizes.append(len(part))
        if len(part) > 3:
            raise error
        return part + 1

    items = torch.arange(21)
    made = torch.cat([out for _, out in in_batches(items, 16, run)])
    assert torch.equal(made, items + 1)
    assert sizes[:3] == [16, 8, 4]
    assert max(sizes[3:]) <= 2


def test_what_a_failed_batch_made_is_let_go_before_its_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    monkeypatch.setattr(batching, "_give_back_unused", lambda device: alive.append(made[-1]() is not None))

    def run(part: Tensor) -> Tensor:
        on_the_way = part + 1
        made.append(weakref.ref(on_the_way))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return on_the_way

    assert len(list(in_batches(torch.arange(8), 8, run))) == 4
    assert alive == [False, False]


def test_an_ablation_of_an_early_layer_takes_the_memory_of_the_pass_that_is_run_again() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    features = detector.features(photo(), "backbone.blocks.2")
    (level,) = features.levels.values()
    with torch.no_grad():
        needed = FullTail(detector, features, []).bytes_per_item("backbone.blocks.2")
    assert needed >= batching.ACTIVATIONS * features.inputs.tensor.numel() * 4
    assert needed > 50 * level.numel() * 4


def test_a_device_without_room_for_one_says_so() -> None:
    def run(part: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(torch.arange(4), 4, run))


def test_other_errors_are_not_swallowed() -> None:
    def run(part: Tensor) -> Tensor:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(in_batches(torch.arange(4), 4, run))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_batch_size_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(batching, "free_memory", lambda device: 1000)
    assert batch_size_for(cpu, 100) == 5
    assert batch_size_for(cpu, 10**9) == 1
    assert batch_size_for(cpu, 1) == batching.MAX_BATCH_CPU


def test_free_memory_knows_the_process_limit() -> None:
    """Under a real ``ulimit -v`` the free memory is what the limit leaves, and a map is still made."""
    assert free_memory(torch.device("cpu")) > 0
    script = textwrap.dedent("""
        import resource, sys, torch
        sys.path.insert(0, "tests")
        from faster_rcnns import photo, small_faster_rcnn
        import detxai
        from detxai import explain, wrap  # names are imported when they are used: before there is a limit
        from detxai.engine.batching import free_memory
        torch.set_num_threads(1)
        with open("/proc/self/statm") as own:
            used = int(own.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
        free = free_memory(torch.device("cpu"))
        assert free <= 300 * 2**20, free
        detector = detxai.wrap(small_faster_rcnn())
        found = detector.detect(photo(0), 0)[:2]
        explanations = detxai.explain(detector, photo(0), "ablation_cam", found, batch_size=None)
        print(len(explanations), "maps under", free)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 maps" in done.stdout
