"""Modules that put out what is already known instead of computing it, and the hooks that transformers itself places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from detxai.adapters.layers import find_layer

RECORDERS = "transformers.utils.output_capturing"  # of hidden states and attention
RECORDING = "_output_capturing_hooks_installed"  # how transformers notes on a model that they lie there


@contextmanager
def recorders_taken_off(model: nn.Module) -> Iterator[None]:
    """On the way out, also by an exception, the hooks are gone by which transformers began to record inside."""
    before = [(module, set(module._forward_hooks), bool(vars(module).get(RECORDING))) for module in model.modules()]
    try:
        yield
    finally:
        for module, own, was_noted in before:
            hooks = module._forward_hooks
            for key in [key for key, hook in hooks.items() if key not in own and _is_recording(hook)]:
                del hooks[key]
            if not was_noted:
                vars(module).pop(RECORDING, None)


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
    return any(not _is_recording(hook) for hook in placed)


def _is_recording(hook: Any) -> bool:
    return getattr(hook, "__module__", None) == RECORDERS


def _set_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """None: the method of its class again."""
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward
