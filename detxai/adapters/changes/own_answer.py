"""Whether candidates and features still agree with a model's own detections where somebody changed the model."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from detxai.adapters.changes.unchanged import is_our_own
from detxai.detections import Candidates, Detections

Changes = Mapping[str, object]


def changed_parts(parts: Mapping[str, nn.Module], package: str, besides: Collection[str] = ()) -> dict[str, object]:
    """The overridden or patched methods and the hooks of these modules, by name.

    Only methods that the package's classes define. A method that was replaced again is another change.

    Args:
        parts: name -> module.
        package: prefix of the modules whose methods count as unchanged.
        besides: methods that have no effect on detections.
    """
    changed: dict[str, object] = {}
    for name, module in parts.items():
        kind: Any = type(module)
        for method in _methods(kind, package):
            now = getattr(module, method)
            if method in besides or is_our_own(now):  # detxai skips a module whose output is known
                continue
            function = getattr(now, "__func__", None)  # None: no method, but something put in its place
            if function is None or not function.__module__.startswith(package):
                changed[f"{name}.{method}"] = now
        placed = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        hooks = tuple(hook for hook in placed if not is_our_own(hook))
        if hooks:
            changed[f"a hook on {name}"] = hooks
    return changed


@lru_cache(maxsize=64)
def _methods(kind: type, package: str) -> tuple[str, ...]:
    own = [inherited for inherited in kind.__mro__ if inherited.__module__.startswith(package)]
    return tuple({name: None for one in own for name, value in vars(one).items() if inspect.isfunction(value)})


def check_candidates(candidates: Candidates, own: Detections, changes: Changes, *, half: bool) -> None:
    """Raise ``ValueError`` where one of the model's own detections is not among the candidates of the same image.

    Args:
        candidates, own: of the same image.
        changes: what was changed, for the message.
        half: whether both were computed in half precision, which rounds them.
    """
    unknown = sorted(set(own.labels.tolist()) - set(candidates.labels.tolist()))
    if unknown:
        raise ValueError(f"{_refusal(changes)}: the model answers labels {unknown}, which no candidate has")
    boxes, scores = (value[:, 0].detach().float() for value in candidates.of_labels(own.labels))
    own = own.to(boxes.device)
    box_off = (boxes - own.boxes[:, None]).abs().amax(-1)
    score_off = (scores - own.scores[:, None]).abs()
    score_limit = 2e-2 if half else 1e-4
    box_limit = (1e-2 if half else 1e-4) * float(own.boxes.abs().max().clamp(min=100))
    off = torch.maximum(box_off / box_limit, score_off / score_limit)
    nearest_off, nearest = off.min(1)
    worst = int(nearest_off.argmax())
    if float(nearest_off[worst]) > 1:
        place, seen = int(nearest[worst]), boxes.expand(len(own), -1, -1)[worst]
        raise ValueError(
            f"{_refusal(changes)}: the model's own detection {_described(own.boxes[worst], own.scores[worst])} is not "
            f"among the candidates; the nearest is {_described(seen[place], scores[worst, place])}"
        )


def check_levels(levels: Mapping[str, Tensor], own: Mapping[str, Tensor], changes: Changes, *, half: bool) -> None:
    """Raise ``ValueError`` where a level differs from the layer's output in the model's own pass, for one image."""
    for name, level in levels.items():
        theirs = own[name]
        limit = (5e-2 if half else 1e-3) * float(theirs.abs().max())
        if theirs.shape != level.shape or not bool(((theirs - level).abs() <= limit).all()):
            raise ValueError(f"{_refusal(changes)}: in the model's own pass {name} outputs something else")


def _refusal(changes: Changes) -> str:
    return (
        f"model: {', '.join(changes)} is not the family's own, and detxai cannot see what it does (it would follow a "
        "change inside the backbone, neck or heads, such as a temperature in the class layer)"
    )


def _described(box: Tensor, score: Tensor) -> str:
    return f"{[round(side, 2) for side in box.tolist()]} with score {float(score):.4f}"
