"""Tiny detectors of both families, in float64, whose activations are ReLU modules of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from plain_hooks import OneStage, TwoStages
from torch import Tensor, nn

from detxai.adapters.detector import Detector
from detxai.adapters.network import module_of


def with_relus(model: nn.Module) -> nn.Module:
    """The model with a ReLU, in place as most are, wherever it has a SiLU."""
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.SiLU):
                setattr(parent, name, nn.ReLU(inplace=True))
    return model


@contextmanager
def held(case: TwoStages | OneStage) -> Iterator[None]:
    """The RPN's proposals for the case's image, whatever image it is then shown; by a hook of the test's own."""
    if isinstance(case, OneStage):
        yield
        return
    kept: list[Any] = []
    with torch.no_grad():
        once = case.model.rpn.register_forward_hook(lambda module, given, output: kept.append(output))
        case.model([case.image])
        once.remove()
    handle = case.model.rpn.register_forward_hook(lambda module, given, output: kept[0])
    try:
        yield
    finally:
        handle.remove()


def own_score(case: TwoStages | OneStage, image: Tensor, box: Tensor, label: int) -> float:
    """The box's score in another image, by the model's own call."""
    clean = case.image
    case.image = image
    try:
        with torch.no_grad():
            return float(case.answer({}).score(box.double(), label))
    finally:
        case.image = clean


def images_seen(detector: Detector) -> tuple[list[int], Any]:
    """How many images the detector's first layer has been shown, call by call, and the hook to remove."""
    seen: list[int] = []
    first = next(module for module in module_of(detector).modules() if isinstance(module, nn.Conv2d))
    return seen, first.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
