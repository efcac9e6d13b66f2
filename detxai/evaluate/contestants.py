"""The methods that compete, by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from detxai.evaluate.baselines import BoxCentre, BoxMap, PlantedMask, PlantedObject, RandomMap
from detxai.evaluate.peers import (
    AISE,
    DRISEMixed,
    GradCamEigenCAM,
    GreedyDeletion,
    GreedyInsertion,
    KernelSHAP,
    PhaseWin,
    UltralyticsLayerCAM,
)
from detxai.explain import Method, make_method
from detxai.messages import did_you_mean
from detxai.methods import METHODS, methods_without_file
from detxai.settings import check_settings

BASELINES: dict[str, type[Any]] = {
    kind.name: kind for kind in (RandomMap, BoxMap, BoxCentre, PlantedMask, PlantedObject)
}
PEERS: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        GradCamEigenCAM, UltralyticsLayerCAM, AISE, GreedyInsertion, GreedyDeletion, PhaseWin, KernelSHAP, DRISEMixed
    )
}  # fmt: skip
EVERY = "all"  # every method that needs no file of its own, and these beside them
YARDSTICKS = (BoxCentre.name, RandomMap.name)

Contestant: TypeAlias = Method | PlantedMask
Methods: TypeAlias = Sequence[str | Method] | Mapping[str, str | Method]


def may_be_zero_outside_boxes(method: Contestant) -> bool:
    """Whether a map that is zero outside its box tells what was found there: of these methods none cuts maps to boxes.

    Of a method of the user's own that cannot be known.
    """
    return type(method) in (*METHODS.values(), *PEERS.values(), BoxMap, PlantedMask)


def contestants(methods: Methods, settings: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Contestant]:
    """What competes, by the name that it goes under.

    Args:
        methods: names (``d_rise``), names with a name of their own (``fast=ablation_cam``, so that one method may
            compete with several settings), ``all`` (every method, ``box_centre`` and ``random``), or methods; or a
            mapping from names to either.
        settings: name -> the method's settings.

    Raises:
        ValueError: an unknown method or setting, a name twice, settings of a method that does not compete, or a name
            that cannot be part of a file's.
        TypeError: settings beside a method that has its own.
    """
    given = dict(settings or {})
    named: dict[str, Contestant] = {}
    for name, method in _named(methods):
        if name in named:
            raise ValueError(
                f"methods must have different names, got {name!r} twice; enter it the second time as NAME={name}"
            )
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(
                f"names of methods must be letters, digits, '_', '-' and '.', a letter first, got {name!r}"
            )
        named[name] = _make(method, dict(given.pop(name, {})))
    if given:
        raise ValueError(f"settings are for {', '.join(given)}, but the methods are only {', '.join(named)}")
    if not named:
        raise ValueError("methods must name at least one method, got none")
    return named


def _named(methods: Methods) -> list[tuple[str, str | Method]]:
    if isinstance(methods, Mapping):
        return list(methods.items())
    if isinstance(methods, str):
        raise TypeError(f"methods must be a list of names, got the text {methods!r}")
    pairs: list[tuple[str, str | Method]] = []
    for method in methods:
        if method == EVERY:
            pairs += [(name, name) for name in [*methods_without_file(), *YARDSTICKS]]
        elif isinstance(method, str):
            name, _, kind = method.partition("=")
            pairs.append((name.strip(), (kind or name).strip()))
        else:
            pairs.append((method.name, method))
    return pairs


def _make(method: str | Method, settings: dict[str, Any]) -> Contestant:
    if not isinstance(method, str) or method in METHODS:
        if isinstance(method, str) and "progress" in _fields(METHODS[method]):
            settings.setdefault("progress", False)  # the evaluation's own bar is enough
        return make_method(method, **settings)
    kind = {**BASELINES, **PEERS}.get(method)
    if kind is None:
        raise ValueError(
            f"methods must be {EVERY!r} or some of {', '.join([*METHODS, *PEERS, *BASELINES])}; got {method!r}"
            f"{did_you_mean(method, [*METHODS, *PEERS, *BASELINES])}"
        )
    check_settings(method, kind, settings)
    contestant: Contestant = kind(**settings)
    return contestant


def _fields(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]
