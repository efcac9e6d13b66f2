"""Weights on disk: half precision in safetensors, float32 in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from detxai.runs.files import write_bytes


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict with its floats in half precision; whole, or not at all."""
    halved = {
        name: value.detach().cpu().to(torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in state.items()
    }
    write_bytes(path, save(halved, metadata))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of ``save_weights``, floats as float32."""
    return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}


def load_trained(build: Callable[[], Any], file: Path, title: str, model: str) -> Any:
    """A detector with the weights of ``file``, in eval mode.

    Args:
        build: makes the untrained one.
        title: what people call it.
        model: what ``detxai.scenes.train`` calls it.

    Raises:
        FileNotFoundError: there is no such file; the message says how to make one.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"no {title} weights at {file}; train them with: python -m detxai.scenes.train --model {model}"
        )
    detector = build()
    detector.load_state_dict(read_weights(file))
    return detector.eval()
