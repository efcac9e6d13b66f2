"""The attention of a query detector of transformers, recorded in the model's own pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detxai.adapters.attention import AttentionLayer
from detxai.adapters.transformers.levels import Grids

CROSS_ATTENTION = ("encoder_attn", "cross_attn")
VALUE = ("v_proj", "value_proj", "cross_attn_value_proj", "value")
OUTPUT = ("o_proj", "out_proj", "output_proj", "dense")


@dataclass(eq=False)
class _LayerRecord:
    """The values of one layer in one pass, leaves of the graph, and what its queries read from them."""

    name: str
    ran: bool = False
    values: list[Tensor] = field(default_factory=list)
    reads: list[Tensor] = field(default_factory=list)

    def start(self, *_: object) -> None:
        """The layer starts to run."""
        self.ran = True

    def hold(self, values: Tensor) -> Tensor:
        """Put leaf tensors in place of the values: the graph starts here, and ends at what the queries read."""
        torch.set_grad_enabled(True)
        self.values.append(values.detach().clone().requires_grad_())
        return self.values[-1].clone()  # later layers may write into it

    def read(self, reads: Tensor) -> None:
        """Record what the queries read: the graph ends here."""
        self.reads.append(reads)
        torch.set_grad_enabled(False)

    def layer(self, grids: Grids) -> AttentionLayer:
        """The layer with its grids; raises ``ValueError`` where it did not run as attention does."""
        shapes = [tuple(tensor.shape) for tensor in (*self.values, *self.reads)]
        if len(self.values) != 1 or len(self.reads) != 1 or any(len(shape) != 3 for shape in shapes):
            raise ValueError(f"layer {self.name!r} must read (B, N, C) of (B, S, C) values once a pass, got {shapes}")
        (values,), (reads,) = self.values, self.reads
        sizes, first_place = grids.grids_of(self.name, values.shape[1])
        n_queries = grids.n_queries
        first_query = 0 if n_queries is None else reads.shape[1] - n_queries
        return AttentionLayer(self.name, values, reads, sizes, first_place, first_query)


def attending_layers(model: nn.Module, *, queries_are_tokens: bool) -> list[str]:
    """The layers by which queries attend to places: the decoder's cross-attention, or every self-attention.

    Args:
        queries_are_tokens: whether queries are tokens beside those of the places, as in YOLOS.
    """
    found = []
    for name, module in model.named_modules():
        *outer, last = name.split(".")
        if queries_are_tokens:
            is_one = last == "attention" and _child(module, VALUE) is not None and _child(module, OUTPUT) is not None
        else:
            # DAB-DETR has a module of the same name inside
            is_one = "decoder" in outer and last in CROSS_ATTENTION and not set(CROSS_ATTENTION) & set(outer)
        if is_one:
            found.append(name)
    return found


@contextmanager
def attention_recorded(model: nn.Module, names: list[str]) -> Iterator[list[_LayerRecord]]:
    """Records of the layers called ``names`` in a pass inside the ``with`` block.

    The pass computes what it always does. Gradients are on only from a layer's values to what its queries read, so that
    the graph of one layer at a time is kept and no more.
    """
    records = [_LayerRecord(name) for name in names]
    with torch.no_grad(), ExitStack() as hooks:
        for record in records:
            module = model.get_submodule(record.name)
            value, output = _child(module, VALUE), _child(module, OUTPUT)
            hooks.callback(module.register_forward_pre_hook(record.start).remove)
            if value is None:  # D-FINE attends to the encoder's output as it is
                hooks.callback(module.register_forward_pre_hook(_given_values_hook(record), with_kwargs=True).remove)
            else:
                hooks.callback(value.register_forward_hook(_values_hook(record)).remove)
            if output is None:
                hooks.callback(module.register_forward_hook(_output_read_hook(record)).remove)
            else:
                hooks.callback(output.register_forward_pre_hook(_input_read_hook(record)).remove)
        yield records


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((part for name, part in module.named_modules() if name.rpartition(".")[2] in names), None)


def _values_hook(record: _LayerRecord) -> Any:
    return lambda module, args, output: record.hold(output)


def _given_values_hook(record: _LayerRecord) -> Any:
    def hold(module: nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if not isinstance(named.get("encoder_hidden_states"), Tensor):
            raise ValueError(f"layer {record.name!r} must be given encoder_hidden_states by name to see its attention")
        return args, {**named, "encoder_hidden_states": record.hold(named["encoder_hidden_states"])}

    return hold


def _input_read_hook(record: _LayerRecord) -> Any:
    return lambda module, args: record.read(args[0])


def _output_read_hook(record: _LayerRecord) -> Any:
    return lambda module, args, output: record.read(output[0] if isinstance(output, tuple) else output)
