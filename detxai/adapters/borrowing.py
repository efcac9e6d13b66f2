"""Use the user's model for a while, and leave it as it was."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detxai.adapters.changes.own_context import ordinary_tensors

# what nn.Module itself keeps; everything else in a module's __dict__ is a plain attribute of its author
_MODULE_STATE = frozenset(vars(nn.Module()))


@contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` in eval mode inside the ``with`` block; restored at its end, also by an exception or Ctrl-C.

    Detectors set attributes of their own while they run (ultralytics' head keeps its anchors, torchvision's RoI
    pooling the scales of the first image), batch norms and users' modules may change buffers, and sampling layers draw
    random numbers: training modes, attributes, buffers and the random state are all restored. Parameters and their
    gradients are never touched.

    One thread has the model at a time, however many detectors wrap it; the others wait. In the thread that has it, a
    second ``borrowed`` does nothing. Inside, ``ordinary_tensors`` holds.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with _lock_of(model) as lock, ordinary_tensors(device):
        if lock.is_borrowed:
            yield model
            return
        with _restored(model):
            lock.is_borrowed = True
            try:
                yield model
            finally:
                lock.is_borrowed = False


@contextmanager
def borrowed_afresh(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` as ``borrowed``, restored at the end also where it is borrowed already.

    With it, images of several sizes get the answers that each would get alone: torchvision's RoI pooling would keep
    the scales of the first image.
    """
    with borrowed(model), _restored(model):
        yield model


@dataclass(eq=False)
class _ModelLock:
    lock: Any = field(default_factory=threading.RLock)
    is_borrowed: bool = False  # by the thread that holds the lock

    def __enter__(self) -> _ModelLock:
        self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()


_LOCKS: weakref.WeakKeyDictionary[nn.Module, _ModelLock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(model: nn.Module) -> _ModelLock:
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, _ModelLock())


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    states = [_state_of(module) for module in model.modules()]  # all that can fail, before anything is changed
    buffers = _Buffers.by_device(model.buffers())
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            for state in states:
                state.module.training = False
            yield
        finally:
            for state in states:
                state.restore()
            for on_device in buffers:
                on_device.restore()


def _state_of(module: nn.Module) -> _ModuleState | _ScriptState:
    return (
        _ScriptState.from_module(module)
        if isinstance(module, torch.jit.ScriptModule)
        else _ModuleState.from_module(module)
    )


@dataclass(frozen=True)
class _ModuleState:
    module: nn.Module
    training: bool
    attributes: dict[str, Any]
    buffers: dict[str, Tensor | None]

    @classmethod
    def from_module(cls, module: nn.Module) -> _ModuleState:
        attributes = {k: v for k, v in vars(module).items() if k not in _MODULE_STATE}
        return cls(module, module.training, attributes, dict(module._buffers))

    def restore(self) -> None:
        self.module.training = self.training
        self.module._buffers.clear()
        self.module._buffers.update(self.buffers)
        state = vars(self.module)
        for name in [name for name in state if name not in _MODULE_STATE and name not in self.attributes]:
            del state[name]
        state.update(self.attributes)


@dataclass(frozen=True)
class _ScriptState:
    """A scripted or traced module keeps its attributes, training mode and buffers in C++."""

    module: Any
    attributes: dict[str, Any]

    @classmethod
    def from_module(cls, module: Any) -> _ScriptState:
        kind = getattr(module, "_concrete_type", None)  # a frozen module has none, and nothing to change
        names = (
            ["training"]
            if kind is None
            else [n for n, (_, is_parameter) in kind.get_attributes().items() if not is_parameter]
        )
        return cls(module, {name: module._c.getattr(name) for name in names if module._c.hasattr(name)})

    def restore(self) -> None:
        for name, value in self.attributes.items():
            self.module._c.setattr(name, value)


@dataclass(frozen=True)
class _Buffers:
    """The buffers on one device, compared by value: batch norms change theirs without a new version."""

    tensors: list[Tensor]
    copies: list[Tensor]

    @classmethod
    def by_device(cls, buffers: Iterable[Tensor]) -> list[_Buffers]:
        devices: dict[torch.device, list[Tensor]] = {}
        for buffer in buffers:
            devices.setdefault(buffer.device, []).append(buffer)
        return [cls(tensors, [tensor.detach().clone() for tensor in tensors]) for tensors in devices.values()]

    def restore(self) -> None:
        """Only those that changed: an autograd graph of the user's may hold the others."""
        pairs = list(zip(self.tensors, self.copies, strict=True))
        with torch.no_grad():
            changed = torch.stack([(tensor != copy).any() for tensor, copy in pairs]).tolist()  # one wait for a device
        for (tensor, copy), is_changed in zip(pairs, changed, strict=True):
            with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
                if is_changed:
                    tensor.copy_(copy)
