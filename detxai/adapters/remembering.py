"""What a model's layers put out for one image, kept while several questions are put to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detxai.adapters.layers import find_layer


@contextmanager
def remembered(model: nn.Module, layers: Sequence[str], *, heads: bool = False) -> Iterator[None]:
    """While the ``with`` block runs, ``layers`` and what runs before them compute the same image only once.

    The first output of each without autograd is kept, and put out again where the same input comes again: equal in
    every bit to what it would compute, as far as in eval mode it depends on nothing but its input and its weights.
    Whatever else is asked of it (gradients, autocast, other inputs; inputs, outputs or weights that were changed since)
    it computes, and everything while there are hooks inside it, which want to see it run.

    Args:
        model: in eval mode.
        layers: names; remembered are they and the layers that their parents list before them.
        heads: remember also the pieces of what their parents list behind them.
    """
    with ExitStack() as undo:
        for module in _parts(model, layers, heads=heads):
            own = vars(module).get("forward")
            undo.callback(_set_forward, module, own)
            _set_forward(module, _Remembering(module))
        yield


def _parts(model: nn.Module, layers: Sequence[str], *, heads: bool) -> list[nn.Module]:
    """What a pass calls one after the other: up to the last of ``layers`` whole, behind it the pieces of each part."""
    found: dict[nn.Module, None] = {}
    for name in layers:
        layer, before = find_layer(model, name), True
        for part in model.get_submodule(name.rpartition(".")[0]).children():
            # a head's own answer depends on its settings; its convolutions' answers do not
            found.update(dict.fromkeys([part] if before else _pieces(part) if heads else []))
            before = before and part is not layer
    return [part for part in found if not isinstance(part, torch.jit.ScriptModule)]  # whose forward cannot be set


def _pieces(part: nn.Module) -> Iterator[nn.Module]:
    for piece in part.children():
        if isinstance(piece, (nn.ModuleList, nn.ModuleDict)):  # never called itself
            yield from _pieces(piece)
        else:
            yield piece


def _set_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """None: the method of its class again."""
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward


class _Remembering:
    """A layer's ``forward`` that keeps its first answer."""

    def __init__(self, layer: nn.Module) -> None:
        self.forward: Callable[..., Any] = layer.forward
        self.layer = layer
        self.first: _Answer | None = None

    def __call__(self, *given: Any, **named: Any) -> Any:
        tensors = _tensors(given[0]) if len(given) == 1 and not named and not torch.is_grad_enabled() else None
        if not tensors or torch.is_autocast_enabled(tensors[0].device.type) or self._is_watched():
            return self.forward(*given, **named)
        if self.first is None:
            answer = self.forward(*given)
            self.first = _Answer.of(tensors, answer, _weights(self.layer))
            return answer
        if not self.first.is_to(tensors):
            return self.forward(*given)
        if self.first.weights != _weights(self.layer):  # what it put out before is no answer of this layer any more
            self.first = None
            return self(*given)
        return self.first.again()

    def _is_watched(self) -> bool:
        inside = (module for module in self.layer.modules() if module is not self.layer)
        return any(module._forward_hooks or module._forward_pre_hooks for module in inside)


@dataclass(frozen=True)
class _Answer:
    """What a layer put out for some tensors, at which version all of them were then, and of which weights."""

    given: list[Tensor]
    output: Any
    versions: list[int]
    weights: object

    @classmethod
    def of(cls, given: list[Tensor], output: Any, weights: object) -> _Answer | None:
        """None where it cannot be put out again."""
        put_out = _tensors(output)
        if put_out is None or any(tensor.is_inference() for tensor in given + put_out):
            return None
        return cls(given, output, [tensor._version for tensor in given + put_out], weights)

    def is_to(self, given: list[Tensor]) -> bool:
        unchanged = self.versions == [tensor._version for tensor in self.given + (_tensors(self.output) or [])]
        same = len(given) == len(self.given) and all(map(_equal, given, self.given))
        return unchanged and same

    def again(self) -> Any:
        return self.output if isinstance(self.output, Tensor) else type(self.output)(self.output)


def _weights(layer: nn.Module) -> object:
    """Equal as long as the weights and buffers are; a change through ``.data`` has no version, but another sum."""
    tensors = [*layer.parameters(), *layer.buffers()]
    if not tensors:
        return None
    same = [(tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in tensors]
    with torch.no_grad():
        return same, torch.stack([tensor.sum(dtype=torch.float32).to(tensors[0].device) for tensor in tensors]).tolist()


def _tensors(value: Any) -> list[Tensor] | None:
    """The tensors of a tensor, list, tuple or dict of them; None where it is anything else."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) not in (list, tuple, dict, OrderedDict):
        return None
    entries = list(value.values()) if isinstance(value, Mapping) else list(value)
    return entries if all(isinstance(entry, Tensor) for entry in entries) else None


def _equal(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    layouts = [(tensor.shape, tensor.dtype, tensor.device, tensor.stride()) for tensor in (one, other)]
    return layouts[0] == layouts[1] and torch.equal(one, other)
