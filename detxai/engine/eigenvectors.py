"""Eigenvalues of small symmetric matrices, without waiting for threads."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 512  # rows of a matrix that one CPU thread decomposes sooner than several


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n), ascending, and eigenvectors (..., n, n) of symmetric matrices (..., n, n)."""
    threads = torch.get_num_threads()
    if matrices.device.type != "cpu" or matrices.shape[-1] > SMALL or threads == 1:
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    try:  # LAPACK's threads wait for each other longer than they work: 2.2 s instead of 4 ms on two busy cores
        torch.set_num_threads(1)
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    finally:
        torch.set_num_threads(threads)
