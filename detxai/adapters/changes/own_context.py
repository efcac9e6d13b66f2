"""Calls that compute the same whatever torch modes their caller has set: inference mode, default device, autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch

Call = TypeVar("Call", bound=Callable[..., Any])


@contextmanager
def ordinary_tensors(device: torch.device) -> Iterator[None]:
    """Inside, tensors are made that gradients can be taken of later, on the CPU unless a device is named.

    Inference mode is switched off inside and replaced by ``no_grad``. A default device other than the model's does not
    apply.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        by_default = torch.empty(0).device  # torch 2.6 cannot say after set_default_device(None)
        if by_default.type not in ("cpu", device.type):
            stack.enter_context(torch.device("cpu"))
        yield


def in_full_precision(call: Call) -> Call:
    """A method's ``__call__`` with ``ordinary_tensors`` and without the caller's autocast.

    The effect of a channel is often smaller than half precision rounds off; a method's own ``precision`` setting says
    where it may be used. The call's first argument is the detector.
    """

    @functools.wraps(call)
    def called(method: Any, detector: Any, *arguments: Any, **named: Any) -> Any:
        device = detector.device
        with ExitStack() as stack:
            stack.enter_context(ordinary_tensors(device))
            for kind in {"cpu", device.type}:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            return call(method, detector, *arguments, **named)

    return called  # type: ignore[return-value]
