"""The precision that a network computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = {"full": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> None:
    """Raise ``ValueError`` where ``precision`` is none of ``PRECISIONS``."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {precision!r}")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a network computes at ``precision``: ``"full"`` (the model's own), ``"bf16"``, ``"fp16"``.

    Raises:
        ValueError: an unknown precision.
    """
    check_precision(precision)
    kind = PRECISIONS[precision]
    return nullcontext() if kind is None else torch.autocast(device.type, kind)
