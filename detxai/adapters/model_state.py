"""Borrow the user's model and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# what nn.Module itself keeps; everything else in a module's __dict__ is a plain attribute of its author
_MODULE_STATE = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class _ModuleState:
    module: nn.Module
    training: bool
    attributes: dict[str, Any]
    buffers: dict[str, Tensor | None]

    @classmethod
    def of(cls, module: nn.Module) -> _ModuleState:
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


@contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` in eval mode; on the way out, also by an exception or Ctrl-C, as it was.

    Detectors keep notes on themselves while they run (ultralytics' head its anchors, torchvision's RoI pooling the
    scales of the first image it saw), batch norms and users' modules may move buffers, and sampling layers draw
    random numbers: training modes, attributes, buffers and the random state all come back. Parameters and their
    gradients are never touched.
    """
    states = [_ModuleState.of(module) for module in model.modules()]
    copies = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            for state in states:
                state.module.training = False
            yield model
        finally:
            for state in states:
                state.restore()
            with torch.no_grad():
                for buffer, version, copy in copies:
                    if buffer._version != version:
                        buffer.copy_(copy)
