"""Nothing that a training run computes with is moved by what is done in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Random states as they were on the way out, also after an exception; gradients and full precision inside.

    Python's, numpy's and torch's generators (CPU and every device in use) all come back: the order in which a data
    loader draws the next epoch depends on them. Inside, autograd records also where the caller does not (methods ask
    for gradients with respect to features, never of parameters), and no autocast of the caller's applies.
    ``Detector.borrowed`` brings back modes, buffers and attributes of the model itself.
    """
    python, numpy = random.getstate(), np.random.get_state()
    kinds = {parameter.device.type for parameter in model.parameters()} | {"cpu"}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        if "mps" in kinds:
            stack.enter_context(torch.random.fork_rng(device_type="mps"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in sorted(kinds):
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
