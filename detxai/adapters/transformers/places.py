"""Finding the parts of a query detector: its backbone, its encoder, and the modules that run before a layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def shallowest(model: nn.Module, name: str) -> str | None:
    """The outermost module called ``name``, outside the backbone: a backbone may have an encoder of its own."""
    found: list[str] = []
    for path, _ in model.named_modules():
        *outer, last = path.split(".")
        if last == name and "backbone" not in outer:
            found.append(path)
    return min(found, key=lambda path: path.count("."), default=None)


def last_norm(model: nn.Module) -> str:
    """The normalisation before the last attention of a vision transformer: after it, no layer reads the places.

    Raises:
        LookupError: there is no such layer.
    """
    found = [name for name, _ in model.named_modules() if name.endswith(".layernorm_before")]
    if not found:
        raise LookupError(f"layers must be given: {type(model).__name__} has no layernorm_before")
    return found[-1]


def modules_before(model: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    """The module whose output ``layers`` do not affect, and through which all later modules read the image.

    The backbone, where none of the layers is inside it. Without a backbone, the block before the first of the layers,
    in a stack where each block reads only the one before. Empty where there is no such module.
    """
    backbone = shallowest(model, "backbone")
    if backbone is not None:
        return () if any(_holds(backbone, layer) or _holds(layer, backbone) for layer in layers) else (backbone,)
    stack = _stack(model)
    places = [_place_in(stack, layer) for layer in layers]
    first = min((place for place in places if place is not None), default=0)
    return () if None in places or first == 0 else (f"{stack}.{first - 1}",)


def blocks_before(model: nn.Module, block: str) -> list[str]:
    """The blocks that run before ``block`` in its stack; none where it is no block of one."""
    stack = _stack(model)
    place = None if stack is None else _place_in(stack, block)
    return [] if place is None else [f"{stack}.{earlier}" for earlier in range(place)]


def _stack(model: nn.Module) -> str | None:
    """The blocks of a detector that is a vision transformer and nothing else."""
    encoder = shallowest(model, "encoder")
    if encoder is None or shallowest(model, "backbone") is not None:
        return None
    return f"{encoder}.layer"


def _place_in(stack: str | None, layer: str) -> int | None:
    place = layer.removeprefix(f"{stack}.").partition(".")[0] if stack and _holds(stack, layer) else ""
    return int(place) if place.isdigit() else None


def _holds(outer: str, layer: str) -> bool:
    return layer == outer or layer.startswith(f"{outer}.")
