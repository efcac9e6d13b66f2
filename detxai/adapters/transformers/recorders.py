"""The hooks that transformers itself places on a model to record hidden states and attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

RECORDERS = "transformers.utils.output_capturing"  # the module that the hooks come from
RECORDING = "_output_capturing_hooks_installed"  # the attribute by which a model says that it has them


@contextmanager
def recorders_removed(model: nn.Module) -> Iterator[None]:
    """On the way out, also by an exception, remove the hooks that transformers placed inside the ``with`` block."""
    before = [(module, set(module._forward_hooks), bool(vars(module).get(RECORDING))) for module in model.modules()]
    try:
        yield
    finally:
        for module, own, was_noted in before:
            hooks = module._forward_hooks
            for key in [key for key, hook in hooks.items() if key not in own and is_recorder(hook)]:
                del hooks[key]
            if not was_noted:
                vars(module).pop(RECORDING, None)


def is_recorder(hook: Any) -> bool:
    """Whether a hook is one by which transformers records hidden states and attention: no result depends on it."""
    return getattr(hook, "__module__", None) == RECORDERS
