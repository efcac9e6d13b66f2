"""Whether parts of a model are exactly of the types that a shortcut was proved for, and nobody has changed them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}


class ChangedPartError(Exception):
    """A part of a model is not what a shortcut was proved for; the message says which part, and how it differs."""


def require_unchanged(
    name: str,
    part: Any,
    proved: Collection[type],
    *,
    inside: bool = True,
    may_replace: Collection[Callable[..., Any]] = (),
) -> None:
    """Check that ``part``, and every module inside it, does what its type says and nothing else.

    Each must be of one of the types ``proved`` (a subclass is another type), with the methods of its class, no hooks
    but detxai's own, no parametrization, plain tensors as weights, and be neither scripted nor compiled.

    Args:
        name: of the part in the model.
        part: a module, or another object that computes.
        proved: the types that the shortcut was proved for.
        inside: whether to check the modules inside it too.
        may_replace: functions of a class that its objects may have in place of another of its methods.

    Raises:
        ChangedPartError: it does not.
    """
    modules = list(part.named_modules(prefix=name)) if inside and isinstance(part, nn.Module) else [(name, part)]
    for path, module in modules:
        change = change_of(module, proved, may_replace)
        if change is not None:
            raise ChangedPartError(f"{path} {change}")


def change_of(part: Any, proved: Collection[type], may_replace: Collection[Callable[..., Any]] = ()) -> str | None:
    """How one part differs from what it was proved to be, as in ``has a forward hook``; None where it does not."""
    kind = type(part)
    if isinstance(part, torch.jit.ScriptModule):
        return "is scripted"
    if isinstance(part, nn.Module) and parametrize.is_parametrized(part):
        return "is parametrized"
    if kind not in proved:
        return f"is a {kind.__module__}.{kind.__qualname__}"
    method = _replaced_method(part, may_replace)
    if method is not None:
        return f"has a {method} that is not its class's own"
    return _change_of_module(part) if isinstance(part, nn.Module) else None


def _change_of_module(module: nn.Module) -> str | None:
    if module._compiled_call_impl is not None:
        return "is compiled"
    for kept, what in HOOKS.items():
        everywhere = getattr(torch_module, f"_global{kept}", {})
        if any(not is_our_own(hook) for hook in (*getattr(module, kept).values(), *everywhere.values())):
            return f"has a {what}"
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if type(tensor) not in (nn.Parameter, Tensor):
            return f"has a {name} of type {type(tensor).__qualname__}"
    return None


def _replaced_method(part: Any, may_replace: Collection[Callable[..., Any]]) -> str | None:
    """The name of a method that the object, or somebody who wrote to its class, has replaced."""
    kind = type(part)
    for name, value in vars(part).items():
        own = inspect.getattr_static(kind, name, None)
        # ultralytics keeps a name as ``type``: hidden is then a method that nobody calls
        if callable(value) and isinstance(own, (types.FunctionType, staticmethod, classmethod)):
            bound = getattr(value, "__func__", None) if getattr(value, "__self__", None) is part else None
            if bound is None or (bound is not own and bound not in may_replace):
                return name
    for owner in kind.__mro__[: kind.__mro__.index(nn.Module) if issubclass(kind, nn.Module) else -1]:
        for name, value in vars(owner).items():
            home = getattr(value, "__module__", None)
            if isinstance(value, types.FunctionType) and home and _package(home) != _package(owner.__module__):
                return name
    return None


def is_our_own(hook: Any) -> bool:
    """Whether a hook is detxai's."""
    return _package(getattr(hook, "__module__", None) or "") == "detxai"


def _package(module: str) -> str:
    return module.partition(".")[0]
