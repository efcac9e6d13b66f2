"""Batches as large as the device allows."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_BATCH_CPU = 8  # past this, full passes only stream a CPU's caches
MAX_BATCH_GPU = 256
ACTIVATIONS = 64  # bytes that a full pass holds at its fullest, per byte of its input image
LOOP_DEVICES = {"cpu"}  # kinds of device that compute small products faster in a loop than as one batch
SHARE_OF_FREE = 0.5  # estimates of what an item needs leave out allocator slack and fragmentation


def prefers_loop(device: torch.device) -> bool:
    """Whether small matrix products run faster in a loop on ``device``, each in its caches, than as one batch."""
    return device.type in LOOP_DEVICES


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on ``device`` now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return _free_host_memory()


def _free_host_memory() -> int:
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/meminfo", encoding="ascii") as info:
            lines = dict(line.split(":", 1) for line in info)
        free = int(lines["MemAvailable"].split()[0]) * 1024
        if soft != resource.RLIM_INFINITY:
            with open("/proc/self/statm", encoding="ascii") as own:
                used = int(own.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            free = min(free, max(soft - used, 0))
        return free
    except (ImportError, OSError, KeyError, ValueError):  # no Linux: no cheap way to ask
        return 2 * 1024**3


def batch_size_for(device: torch.device, bytes_per_item: int, cpu_batch: int = MAX_BATCH_CPU) -> int:
    """How many items of so many bytes fit the free memory of ``device``: at least 1, on a CPU at most ``cpu_batch``."""
    most = cpu_batch if device.type == "cpu" else MAX_BATCH_GPU
    return max(1, min(most, int(free_memory(device) * SHARE_OF_FREE) // max(bytes_per_item, 1)))


def images_at_once(images: Tensor) -> int:
    """How many images like those of a prepared batch (B, 3, h, w) a full pass takes at once."""
    return batch_size_for(images.device, ACTIVATIONS * images[0].numel() * images.element_size())


def check_batch_size(batch_size: int | None) -> None:
    """Raise ``ValueError`` where ``batch_size`` is neither None nor a whole number from 1."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a whole number from 1, or None, got {batch_size!r}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def in_batches(items: Tensor, batch_size: int, run: Callable[[Tensor], T]) -> Iterator[tuple[Tensor, T]]:
    """``run`` on consecutive parts of ``items``; running out of memory halves the part and goes on.

    Yields:
        Each part and what ``run`` returned for it, in order; every item exactly once.

    Raises:
        The device's own error, when even one item does not fit.
    """
    start = 0
    while start < len(items):
        part = items[start : start + batch_size]
        try:
            made = run(part)
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
        else:
            yield part, made
            start += len(part)
            continue
        # only here, after the error, whose traceback holds intermediate tensors, can their memory be given back
        batch_size = len(part) // 2
        log.info("out of memory with %d at once; going on with %d", len(part), batch_size)
        _give_back_unused(items.device)


def _give_back_unused(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
