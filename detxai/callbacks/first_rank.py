"""Which process of a distributed training writes."""

from __future__ import annotations

import os

import torch


def is_first_rank() -> bool:
    """True in the process that writes: rank 0, or the only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK", "-1")) in (-1, 0)
