"""Where a training stopped, so that it can go on."""

import io
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detxai.runs.files import write_bytes

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, parts: Mapping[str, Any], settings: Any, step: int, seconds: float = 0.0) -> None:
    """Write the state of every part (model, optimiser, ...), after so many steps and seconds of training.

    Args:
        settings: the dataclass of the run's settings.
    """
    buffer = io.BytesIO()
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"parts": state, "settings": asdict(settings), "step": step, "seconds": seconds}, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, parts: Mapping[str, Any], settings: Any) -> tuple[int, float]:
    """Put every part where ``save_checkpoint`` left it; the steps and seconds done, 0 and 0.0 where there is no file.

    Raises:
        ValueError: the checkpoint was made with other settings.
    """
    if not path.is_file():
        return 0, 0.0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["settings"] != asdict(settings):
        raise ValueError(
            f"{path} was made with settings {saved['settings']}, got {asdict(settings)}; "
            "choose another --out or delete it"
        )
    for name, part in parts.items():
        part.load_state_dict(saved["parts"][name])
    log.info("resumed %s at step %d", path, saved["step"])
    return int(saved["step"]), float(saved.get("seconds", 0.0))  # older ones count steps alone
