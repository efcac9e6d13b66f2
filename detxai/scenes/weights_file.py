"""Weights on disk: half precision in safetensors, float32 in memory."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from detxai.scenes.files import write_atomically


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict with its floats in half precision; whole, or not at all."""
    halved = {
        name: value.detach().cpu().to(torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in state.items()
    }
    write_atomically(path, save(halved, metadata))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of ``save_weights``, floats as float32."""
    return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
