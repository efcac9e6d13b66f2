"""A model as it is, to compare it with what it is afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "identity": [id(m) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "attributes": [
            {
                k: v
                for k, v in vars(m).items()
                if not k.startswith("_") and isinstance(v, (int, float, tuple, str, type(None)))
            }
            for m in model.modules()
        ],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "rng": torch.get_rng_state(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in ("identity", "training", "attributes", "hooks", "requires_grad"):
        assert before[name] == after[name], name
    assert all(torch.equal(v, after["tensors"][k]) for k, v in before["tensors"].items())
    assert torch.equal(before["rng"], after["rng"])
    for a, b in zip(before["grad"], after["grad"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


class StopError(Exception):
    pass


def raising(error: type[BaseException]) -> Callable[..., None]:
    """A hook that raises."""

    def hook(*_: Any) -> None:
        raise error

    return hook
