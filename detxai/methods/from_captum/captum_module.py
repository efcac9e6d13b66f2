"""Captum itself: imported only when it is used, without its warnings, and with random numbers of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def import_captum() -> Any:
    """The module ``captum.attr``.

    Raises:
        ImportError: with the pip line.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError('this method needs Captum: pip install "detxai[captum]"') from error
    return captum.attr


@contextmanager
def captum_runs(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Inside, torch's and numpy's random numbers come from ``seed``; at the end their states are the caller's again.

    Captum's warnings about the hooks that it places, and about inputs without gradients, are suppressed.
    """
    cuda = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    of_numpy = np.random.get_state()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=cuda):
        warnings.filterwarnings("ignore", r"\s*Setting (forward, )?backward hooks")
        warnings.filterwarnings("ignore", r"Input Tensor \d+ did not already require gradients")
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
