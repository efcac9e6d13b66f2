"""Weights & Biases: a table of explanations, and AP, counts and costs of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.exports.images import pictured
from detxai.coco.exports.tensorboard import scalars, worst
from detxai.progress import progress_bar
from detxai.runs.interrupting import raise_if_interrupted

COLUMNS = (
    "row", "file_name", "kind", "category", "score", "annotation_category", "iou", "ap_loss", "stage",
    "candidate_score", "candidate_iou", "energy_box",
)  # fmt: skip


def to_wandb(run: ExplainedBoxes, logged: Any, *, most: int = 50) -> Any:
    """Log a ``wandb.Table`` of explanations, with their pictures, and the run's figures.

    Args:
        run: from ``detxai.coco.load``, filtered or not.
        logged: a W&B run, from ``wandb.init(project=...)``; with ``mode="offline"`` nothing leaves this machine.
        most: rows of each kind, those that cost most AP.

    Returns:
        The table.

    Raises:
        ImportError: wandb is not installed.
    """
    wandb = _wandb()
    chosen = worst(run, most)
    table = wandb.Table(columns=["explanation", *COLUMNS])
    with progress_bar(None, len(chosen), "to W&B", "box") as bar:
        for index in chosen:
            row = run.row(index)
            picture = wandb.Image(PIL.Image.fromarray(pictured(run, index)))
            table.add_data(picture, *(row[name] for name in COLUMNS))
            raise_if_interrupted()
            bar.update(1)
    logged.log({"detxai/explanations": table, **{f"detxai/{name}": value for name, value in scalars(run).items()}})
    return table


def log_to_project(run: ExplainedBoxes, project: str, folder: Path) -> None:
    """``to_wandb`` in a run of its own, whose files go to ``folder``.

    Raises:
        ImportError: wandb is not installed.
    """
    wandb = _wandb()
    with wandb.init(project=project, dir=str(folder), job_type="detxai coco") as logged:
        to_wandb(run, logged)


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError('wandb is not installed: pip install "detxai[wandb]"') from error
    return wandb
