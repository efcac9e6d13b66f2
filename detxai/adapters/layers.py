"""Layers by name: see what they put out, or put something else in its place. Hooks live only inside the ``with``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer called ``name`` in ``model.named_modules()``.

    Raises:
        LookupError: there is none; the message names the nearest ones.
    """
    if not isinstance(name, str):
        raise TypeError(f"layers must be names, got {type(name).__name__}")
    modules = dict(model.named_modules())
    if name and name in modules:
        return modules[name]
    near = difflib.get_close_matches(name, modules, n=3) or [n for n in modules if n][:3]
    raise LookupError(f"layer {name!r} is not in {type(model).__name__}; near it: {', '.join(near)}")


@contextmanager
def capture(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each layer puts out while the ``with`` block runs the model once.

    Raises:
        LookupError: a layer did not run.
        ValueError: a layer ran more than once, so that no single output is its own.
    """
    outputs: dict[str, Any] = {}
    runs = dict.fromkeys(layers, 0)
    with ExitStack() as hooks:
        for name in layers:

            def keep(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                outputs[name] = output
                runs[name] += 1

            hooks.callback(find_layer(model, name).register_forward_hook(keep).remove)
        yield outputs
    for name, n in runs.items():
        if n == 0:
            raise LookupError(f"layer {name!r} did not run, so there is nothing of it to explain")
        if n > 1:
            raise ValueError(f"layer {name!r} runs {n} times in one pass; choose a layer that runs once")


@contextmanager
def replaced(model: nn.Module, outputs: Mapping[str, Any], levels: Mapping[str, Tensor]) -> Iterator[None]:
    """While the ``with`` block runs, each layer in ``outputs`` puts out ``levels`` instead of its own."""
    with ExitStack() as hooks:
        for name, output in outputs.items():
            new = with_levels(name, output, levels)
            hooks.callback(find_layer(model, name).register_forward_hook(lambda *_, new=new: new).remove)
        yield


def level_names(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The outputs of layers as named levels: ``layer`` for a tensor, ``layer:entry`` for a dict's or list's entries.

    Raises:
        ValueError: an output is no (B, C, h, w) tensor, nor a dict or list of them.
    """
    levels: dict[str, Tensor] = {}
    for layer, output in outputs.items():
        for entry, tensor in _entries(output):
            if not isinstance(tensor, Tensor) or tensor.ndim != 4 or not tensor.is_floating_point():
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(f"layer {layer!r} must put out (B, C, h, w) feature maps, got {got}")
            levels[layer if entry is None else f"{layer}:{entry}"] = tensor
    return levels


def with_levels(layer: str, output: Any, levels: Mapping[str, Tensor]) -> Any:
    """An output of the same structure as ``output``, its tensors taken from ``levels``."""
    if isinstance(output, Tensor):
        return levels[layer]
    if isinstance(output, Mapping):
        return type(output)((entry, levels[f"{layer}:{entry}"]) for entry in output)  # type: ignore[call-arg]
    return type(output)(levels[f"{layer}:{entry}"] for entry, _ in _entries(output))


def _entries(output: Any) -> list[tuple[object, Any]]:
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, (list, tuple)):
        return list(enumerate(output))
    return [(None, output)]
