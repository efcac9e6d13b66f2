"""Models saved whole by ``torch.save``: opening one runs whatever code its file holds."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_pickled(path: str | PathLike[str]) -> nn.Module:
    """The model in a file that only a full unpickling opens, in eval mode, on the CPU.

    That runs whatever code the file holds: only for a file whose maker the user trusts, and says so. Every other way
    into detxai loads with ``weights_only=True``.

    Args:
        path: a module saved by ``torch.save``, or a checkpoint with one under ``"ema"`` or ``"model"``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be opened, or holds no model.
    """
    file = Path(fspath(path))
    if not file.is_file():
        raise FileNotFoundError(f"model: no such file: {file}")
    try:
        saved: Any = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the code in the file raises
        raise ValueError(f"model: {file} cannot be opened: {type(error).__name__}: {error}") from error
    model = saved.get("ema") or saved.get("model") if isinstance(saved, dict) else saved
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: {file} holds no model, but {type(model).__name__}")
    return model.float().eval()
