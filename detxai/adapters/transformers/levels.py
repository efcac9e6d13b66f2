"""Outputs of a query detector's layers as named levels (B, C, h, w), and back.

Backbones put out lists of maps with their masks, encoders an output object with tokens or maps, transformer layers
tokens alone. The features among these become levels; masks, positions, class and detection tokens keep their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from detxai.adapters.layers import check_runs, find_layer, for_batch, sequence_like
from detxai.reshape import maps_to_tokens, tokens_to_maps

Path = tuple[Any, ...]
FEATURES = ("last_hidden_state", "feature_maps")  # the entries of an output object that the next module reads


@dataclass(frozen=True, eq=False)
class Grids:
    """The grids that tokens may have come from, recorded in one pass.

    Attributes:
        n_queries: number of query tokens after those of the places; None where queries are no tokens of the layer.
        maps: (height, width) of each convolution's output, in order.
        pyramids: the sizes of the levels that an encoder or decoder was told its tokens are made of.
    """

    n_queries: int | None = None
    maps: list[tuple[int, int]] = field(default_factory=list)
    pyramids: list[tuple[tuple[int, int], ...]] = field(default_factory=list)

    def grids_of(self, layer: str, n_tokens: int) -> tuple[tuple[tuple[int, int], ...], int]:
        """The grids of ``n_tokens`` tokens of ``layer``, and the number of tokens before the first place.

        Raises:
            ValueError: the tokens fit no grid that was recorded.
        """
        for pyramid in self.pyramids:
            if sum(height * width for height, width in pyramid) == n_tokens:
                return pyramid, 0
        for size in self.maps:
            if size[0] * size[1] == n_tokens:
                return (size,), 0
            if self.n_queries is not None and size[0] * size[1] + 1 + self.n_queries == n_tokens:
                return (size,), 1
        raise ValueError(
            f"layer {layer!r} must output feature maps, or tokens of one of the grids {sorted(set(self.maps))}, got "
            f"{n_tokens} tokens"
        )


@contextmanager
def grids_recorded(model: nn.Module, n_queries: int | None) -> Iterator[Grids]:
    """The grids of the model's maps and pyramids in a pass inside the ``with`` block."""
    grids = Grids(n_queries)

    def record_map(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            grids.maps.append((output.shape[-2], output.shape[-1]))

    def record_pyramid(module: nn.Module, args: Any, named: dict[str, Any]) -> None:
        sizes = named.get("spatial_shapes_list")
        if sizes is not None:
            grids.pyramids.append(tuple((int(height), int(width)) for height, width in sizes))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                hooks.callback(module.register_forward_hook(record_map).remove)
            if name.rpartition(".")[2] in ("encoder", "decoder"):
                hooks.callback(module.register_forward_pre_hook(record_pyramid, with_kwargs=True).remove)
        yield grids


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """A layer's output, and where in it the features are.

    Attributes:
        whole: the output itself.
        parts: level name -> the path to its tensor; the slice of tokens that is this level, None for maps; its grid.
    """

    whole: Any
    parts: Mapping[str, tuple[Path, slice | None, tuple[int, int]]]

    @classmethod
    def from_output(cls, layer: str, output: Any, grids: Grids) -> LayerOutput:
        """Find the features; raises ``ValueError`` where ``layer`` puts out none that lie in a grid."""
        places: list[tuple[Path, slice | None, tuple[int, int]]] = []
        for path in _paths(output):
            tensor = _at(output, path)
            if not isinstance(tensor, Tensor) or tensor.ndim not in (3, 4) or not tensor.is_floating_point():
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(f"layer {layer!r} must output (B, C, h, w) feature maps or tokens, got {got}")
            if tensor.ndim == 4:
                places.append((path, None, (tensor.shape[-2], tensor.shape[-1])))
                continue
            sizes, start = grids.grids_of(layer, tensor.shape[1])
            for height, width in sizes:
                places.append((path, slice(start, start + height * width), (height, width)))
                start += height * width
        names = [layer] if len(places) == 1 else [f"{layer}:{place}" for place in range(len(places))]
        return cls(output, dict(zip(names, places, strict=True)))

    @property
    def levels(self) -> dict[str, Tensor]:
        """Level name -> (B, C, h, w)."""
        found = {}
        for name, (path, tokens, size) in self.parts.items():
            tensor = _at(self.whole, path)
            found[name] = tensor if tokens is None else tokens_to_maps(tensor[:, tokens], size)
        return found

    def with_levels(self, levels: Mapping[str, Tensor]) -> Any:
        """The layer's output with these levels; everything else in it is repeated for every version of the image."""
        batch = len(next(levels[name] for name in self.parts))
        whole = for_batch(self.whole, batch)
        tokens_at: dict[Path, Tensor] = {}
        for name, (path, tokens, _) in self.parts.items():
            if tokens is None:
                whole = _put(whole, path, levels[name].clone())  # a copy: later layers may write into it
                continue
            if path not in tokens_at:
                tokens_at[path] = _at(whole, path).clone()
            tokens_at[path][:, tokens] = maps_to_tokens(levels[name])
        for path, tensor in tokens_at.items():
            whole = _put(whole, path, tensor)
        return whole


@contextmanager
def traced_levels(model: nn.Module, layers: Sequence[str], n_queries: int | None) -> Iterator[dict[str, Tensor]]:
    """The levels of ``layers`` in a pass inside the ``with`` block; later layers compute from these tensors.

    Raises:
        LookupError: a layer did not run.
        ValueError: a layer ran more than once, or puts out no features that lie in a grid.
    """
    levels: dict[str, Tensor] = {}
    runs = dict.fromkeys(layers, 0)
    with ExitStack() as hooks:
        grids = hooks.enter_context(grids_recorded(model, n_queries))
        for name in layers:

            def pass_through(module: nn.Module, args: Any, output: Any, name: str = name) -> Any:
                runs[name] += 1
                found = LayerOutput.from_output(name, output, grids)
                own = found.levels
                levels.update(own)
                return found.with_levels(own)

            hooks.callback(find_layer(model, name).register_forward_hook(pass_through).remove)
        yield levels
    check_runs(runs)


def features_of(output: Any) -> list[Any]:
    """The features among the tensors of a layer's output."""
    return [_at(output, path) for path in _paths(output)]


def _paths(output: Any) -> list[Path]:
    """The paths to the features in a layer's output; one path to something else where there are none."""
    if isinstance(output, Mapping) and output:
        key = next((name for name in FEATURES if name in output), next(iter(output)))
        return [(key, *path) for path in _paths(output[key])]
    if isinstance(output, (list, tuple)) and output:
        if all(_is_map(entry) for entry in output):
            return [(place,) for place in range(len(output))]
        if all(isinstance(entry, (list, tuple)) and entry and _is_map(entry[0]) for entry in output):
            return [(place, 0) for place in range(len(output))]  # maps with their masks
        return [(0, *path) for path in _paths(output[0])]
    return [()]


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()


def _at(output: Any, path: Path) -> Any:
    for key in path:
        output = output[key]
    return output


def _put(output: Any, path: Path, tensor: Tensor) -> Any:
    """A copy of ``output`` with ``tensor`` at the end of ``path``."""
    if not path:
        return tensor
    key, *rest = path
    new = _put(output[key], tuple(rest), tensor)
    if isinstance(output, Mapping):
        return type(output)((name, new if name == key else value) for name, value in output.items())  # type: ignore[call-arg]
    values = [new if place == key else value for place, value in enumerate(output)]
    return sequence_like(output, values)
