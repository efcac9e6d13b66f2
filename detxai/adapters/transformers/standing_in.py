"""Modules that put out what is already known instead of computing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from detxai.adapters.layers import find_layer


@contextmanager
def putting_out(model: nn.Module, outputs: Mapping[str, Any]) -> Iterator[None]:
    """While the ``with`` block runs, each module in ``outputs`` puts out that, and does not run where that shows not.

    A module that somebody hooked still runs, with the hooks on it and inside it. Those by which transformers itself
    records hidden states do not count: nothing reads what they record.
    """
    with ExitStack() as undo:
        for name, output in outputs.items():
            module = find_layer(model, name)
            if (
                isinstance(module, torch.jit.ScriptModule)
                or _all_are_hooked()
                or any(map(_is_hooked, module.modules()))
            ):
                undo.callback(module.register_forward_hook(_instead(output)).remove)
                continue
            own = vars(module).get("forward")
            undo.callback(_set_forward, module, own)
            _set_forward(module, _instead(output))
        yield


def _instead(output: Any) -> Callable[..., Any]:
    return lambda *args, **named: output


def _all_are_hooked() -> bool:
    """Whether there is a hook on every module that there is."""
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def _is_hooked(module: nn.Module) -> bool:
    placed = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in placed)


def _set_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """None: the method of its class again."""
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward
