"""What the caller has set around a call does not change what is computed in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch

Call = TypeVar("Call", bound=Callable[..., Any])


@contextmanager
def ordinary_tensors(device: torch.device) -> Iterator[None]:
    """Inside, tensors can be asked for gradients later, and are made on the CPU unless somebody says where.

    Where inference mode is on, it is off inside, and gradients with it. A default device that is not the model's own
    does not apply.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        if torch.get_default_device().type not in ("cpu", device.type):
            stack.enter_context(torch.device("cpu"))
        yield


def in_full_precision(call: Call) -> Call:
    """A method's call, with the detector as its first argument: ordinary tensors, and no autocast of the caller's.

    What a channel is worth is often less than half precision rounds off; a method's own ``precision`` says where that
    does no harm.
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
