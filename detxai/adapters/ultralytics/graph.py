"""The layers of an ultralytics model as a graph: who reads whom, and what depends on a changed layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

IMAGE = -1  # the place of the model's input, before layer 0


def layer_sources(model: nn.Module) -> tuple[tuple[int, ...], ...]:
    """For each layer of ``model.model``, the places of the layers that it reads; ``IMAGE`` is the model's input.

    ultralytics counts negative places back from the layer itself: -1 is the layer before.
    """
    layers: Any = model.model
    return tuple(_sources(layer.i, layer.f) for layer in layers)


def _sources(place: int, read: int | Sequence[int]) -> tuple[int, ...]:
    places = (read,) if isinstance(read, int) else tuple(read)
    return tuple(source if source >= 0 else place + source for source in places)


@dataclass(frozen=True)
class Tail:
    """The layers left to run once some layers' outputs are given.

    Attributes:
        given: the layers whose outputs are given, so that their inputs do not matter.
        run: the layers before the head to run, in order: those that depend on a given layer and that the head needs.
        cached: the layers (or ``IMAGE``) that the tail also reads and that depend on no given layer: skip connections.
    """

    given: tuple[int, ...]
    run: tuple[int, ...]
    cached: tuple[int, ...]


def tail_from(sources: Sequence[tuple[int, ...]], given: Collection[int]) -> Tail:
    """The tail of a model from the ``given`` layers to its head, the last layer.

    Layer 3 adds layers 0 and 2; with layer 2 given, layer 0 is a skip connection and layer 1 is not needed at all:

    >>> tail_from([(-1,), (0,), (1,), (0, 2), (3,)], given=[2])
    Tail(given=(2,), run=(3,), cached=(0,))
    """
    head = len(sources) - 1
    changed = set(given)
    for place, read in enumerate(sources):
        if changed.intersection(read):
            changed.add(place)
    run, cached, waiting, seen = set(), set(), list(sources[head]), set(given)
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        if place in changed:
            run.add(place)
            waiting.extend(sources[place])
        else:
            cached.add(place)
    return Tail(tuple(sorted(given)), tuple(sorted(run)), tuple(sorted(cached)))


def run_layers(model: nn.Module, known: Mapping[int, Any], run: Sequence[int], keep: Collection[int]) -> dict[int, Any]:
    """The outputs of the layers ``keep``, computed by running ``run`` in order from the ``known`` outputs.

    Outputs that no further layer reads are freed at once.
    """
    layers: Any = model.model
    sources = layer_sources(model)
    last_reader = {source: place for place in run for source in sources[place]}
    outputs = dict(known)
    for place in run:
        read = [outputs[source] for source in sources[place]]
        outputs[place] = layers[place](read[0] if isinstance(layers[place].f, int) else read)
        del read
        for done in (place, *sources[place]):
            if last_reader.get(done, place) <= place and done not in keep:
                outputs.pop(done, None)
    return {place: outputs[place] for place in keep}
