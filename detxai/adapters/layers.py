"""Layers by name: capture or replace their outputs. Hooks exist only inside the ``with`` block."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


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
    """The output of each layer while the ``with`` block runs the model once.

    Later layers cannot change the outputs, as an in-place ReLU otherwise would. Without gradients they are copies; with
    gradients they are the layer's own tensors, and the layers that follow get copies.

    Raises:
        LookupError: a layer did not run.
        ValueError: a layer ran more than once, so that it has no single output; or, with gradients, its output shares
            memory with its input, and something wrote into it.
    """
    outputs: dict[str, Any] = {}
    runs = dict.fromkeys(layers, 0)
    shared: dict[str, list[tuple[Tensor, int]]] = {}
    with ExitStack() as hooks:
        for name in layers:

            def keep(module: nn.Module, args: Any, output: Any, name: str = name) -> Any:
                runs[name] += 1
                copy = copied(output)
                if not torch.is_grad_enabled():
                    outputs[name] = copy
                    return None
                outputs[name] = output
                if _share_memory(output, args):  # a copy in its place: what writes into one no longer reaches the other
                    shared[name] = [(tensor, tensor._version) for tensor in (*tensors_of(output), *tensors_of(copy))]
                return copy

            hooks.callback(find_layer(model, name).register_forward_hook(keep).remove)
        yield outputs
    check_runs(runs)
    for name in runs:
        if any(tensor._version != version for tensor, version in shared.get(name, [])):
            raise ValueError(
                f"layer {name!r} outputs its own input, which is then changed in place; choose another layer"
            )


@contextmanager
def right_batch_norm_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, the batch norms of a model on a CPU get the gradients of a single image as one block of memory.

    From another order, as ``flatten(2).transpose(1, 2)`` behind a batch norm leaves it (RT-DETR does that), torch makes
    a wrong gradient without a word: seen with 2.11 and 2.14 for one image on a CPU, also of an instance norm; two
    images, or a GPU, are right.
    """

    def reorder(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.device.type == "cpu":
            output.register_hook(Tensor.contiguous)

    with ExitStack() as hooks:
        for module in model.modules() if torch.is_grad_enabled() else ():
            if isinstance(module, (_BatchNorm, _InstanceNorm)):
                hooks.callback(module.register_forward_hook(reorder).remove)
        yield


class LayerRunsError(Exception):
    """A layer did not run exactly once in a pass."""


class LayerDidNotRunError(LayerRunsError, LookupError):
    """A layer did not run."""


class LayerRanAgainError(LayerRunsError, ValueError):
    """A layer ran more than once."""


def check_runs(runs: Mapping[str, int]) -> None:
    """Raise where a layer did not run exactly once: ``LookupError`` for never, ``ValueError`` for several times."""
    for name, n in runs.items():
        if n == 0:
            raise LayerDidNotRunError(f"layer {name!r} did not run, so there is nothing of it to explain")
        if n > 1:
            raise LayerRanAgainError(f"layer {name!r} runs {n} times in one pass; choose a layer that runs once")


@contextmanager
def replaced(model: nn.Module, outputs: Mapping[str, Any], levels: Mapping[str, Tensor]) -> Iterator[None]:
    """While the ``with`` block runs, each layer in ``outputs`` puts out ``levels`` instead of its own."""
    with ExitStack() as hooks:
        for name, output in outputs.items():
            new = with_levels(name, output, levels)
            # a copy: what runs behind may write into it
            hooks.callback(find_layer(model, name).register_forward_hook(lambda *_, new=new: copied(new)).remove)
        yield


@contextmanager
def skipping(
    model: nn.Module, outputs: Mapping[str, Any], may_ignore: Callable[[Any], bool] = lambda hook: False
) -> Iterator[None]:
    """While the ``with`` block runs, each module in ``outputs`` puts out that without running.

    A module that somebody hooked still runs, so that the hooks on it and inside it do; then its output is replaced.

    Args:
        may_ignore: whether a hook need not run.
    """
    with ExitStack() as undo:
        for name, output in outputs.items():
            module = find_layer(model, name)
            if isinstance(module, torch.jit.ScriptModule) or _is_hooked(module, may_ignore):
                undo.callback(module.register_forward_hook(_returning(output)).remove)
                continue
            undo.callback(_set_forward, module, vars(module).get("forward"))
            _set_forward(module, _returning(output))
        yield


def _returning(output: Any) -> Callable[..., Any]:
    return lambda *args, **named: output


def _is_hooked(module: nn.Module, may_ignore: Callable[[Any], bool]) -> bool:
    """Whether there are hooks on a module, inside it, or on every module that there is."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return True
    kept = (hooks for part in module.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks))
    return not all(may_ignore(hook) for hooks in kept for hook in hooks.values())


def _set_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """None: the method of its class again."""
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward


# the attributes in which nn.Module keeps hooks
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def hooks_removed(model: nn.Module) -> Iterator[None]:
    """At the end, also by an exception or Ctrl-C, remove hooks that were placed inside the ``with`` block."""
    kept = [getattr(module, kind, None) for module in model.modules() for kind in HOOKS]
    before = [(hooks, set(hooks)) for hooks in kept if hooks is not None]
    try:
        yield
    finally:
        for hooks, own in before:
            for placed in [key for key in hooks if key not in own]:
                del hooks[placed]


def copied(output: Any) -> Any:
    """A layer's output with tensors of its own memory, differentiable in the original."""
    return changed_tensors(output, Tensor.clone)


def changed_tensors(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A layer's output with every tensor changed; what is no tensor stays."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        entries = ((entry, changed_tensors(value, change)) for entry, value in output.items())
        return type(output)(entries)  # type: ignore[call-arg]
    if isinstance(output, (list, tuple)):
        return sequence_like(output, [changed_tensors(value, change) for value in output])
    return output


def sequence_like(output: Any, values: list[Any]) -> Any:
    """A list, tuple or named tuple of the kind of ``output``."""
    return output._make(values) if hasattr(output, "_make") else type(output)(values)  # a named tuple takes no list


def for_batch(output: Any, batch: int) -> Any:
    """A layer's output of one image, standing for ``batch`` versions of it, without copying; of several it stays."""
    return changed_tensors(
        output, lambda tensor: tensor.expand(batch, *tensor.shape[1:]) if tensor.ndim and len(tensor) == 1 else tensor
    )


def leaves_its_input(layer: nn.Module) -> bool:
    """True where ``layer`` is known not to write into its input, so that the input can be used again.

    Known are torch's and ultralytics' own layers: their in-place activations follow a convolution, unless one is a
    layer by itself or a part of a sequence.
    """
    if not getattr(layer.forward, "__module__", "").startswith(("torch.nn.modules.", "ultralytics.nn.")):
        return False
    if _is_in_place(layer):
        return False
    behind = not isinstance(layer, nn.Sequential)
    return all((behind and _is_in_place(part)) or leaves_its_input(part) for part in layer.children())


def _is_in_place(layer: nn.Module) -> bool:
    return bool(getattr(layer, "inplace", False)) and type(layer).__module__.startswith("torch.")  # not YOLO heads


def _share_memory(output: Any, given: Any) -> bool:
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(output)}
    return any(tensor.untyped_storage().data_ptr() in own for tensor in tensors_of(given))


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in a layer's output or arguments."""
    if isinstance(value, (list, tuple, Mapping)):
        entries = value.values() if isinstance(value, Mapping) else value
        return [tensor for entry in entries for tensor in tensors_of(entry)]
    return [value] if isinstance(value, Tensor) else []


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
                raise ValueError(f"layer {layer!r} must output (B, C, h, w) feature maps, got {got}")
            levels[layer if entry is None else f"{layer}:{entry}"] = tensor
    return levels


def with_levels(layer: str, output: Any, levels: Mapping[str, Tensor]) -> Any:
    """An output of the same structure as ``output``, its tensors taken from ``levels``."""
    if isinstance(output, Tensor):
        return levels[layer]
    if isinstance(output, Mapping):
        return type(output)((entry, levels[f"{layer}:{entry}"]) for entry in output)  # type: ignore[call-arg]
    return sequence_like(output, [levels[f"{layer}:{entry}"] for entry, _ in _entries(output)])


def _entries(output: Any) -> list[tuple[object, Any]]:
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, (list, tuple)):
        return list(enumerate(output))
    return [(None, output)]
