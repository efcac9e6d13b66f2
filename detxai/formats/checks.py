"""What every format checks of the values it is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def expect_type(value: object, kind: type, name: str, wanted: str) -> None:
    """Raise ``TypeError``, saying that ``name`` must be ``wanted``, where ``value`` is no ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def on_cpu(values: Any) -> Tensor:
    """Values as a tensor in the CPU's memory, without gradients."""
    return torch.as_tensor(values).detach().cpu()


def class_numbers(name: str, values: Any) -> Tensor:
    """Class numbers, which some tools keep as floats, as int64.

    Raises:
        ValueError: one is no whole number; the message calls them ``name``.
    """
    tensor = on_cpu(values)
    if tensor.is_floating_point() and not bool((tensor == tensor.round()).all()):  # False for NaN too
        raise ValueError(f"{name} must be whole class numbers, got {tensor.tolist()}")
    return tensor.long()
